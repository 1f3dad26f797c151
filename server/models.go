package server

import (
	"context"

	upscalev1 "upscaler/gen/upscale/v1"
	"upscaler/internal/av"
	"upscaler/internal/version"
)

// ListModels implements upscale.v1.UpscaleService.
func (s *Server) ListModels(context.Context, *upscalev1.ListModelsRequest) (*upscalev1.ListModelsResponse, error) {
	res := &upscalev1.ListModelsResponse{}
	for _, m := range s.cfg.Scheduler.Models() {
		res.Models = append(res.Models, modelMessage(m))
	}
	return res, nil
}

// GetServerInfo implements upscale.v1.UpscaleService.
func (s *Server) GetServerInfo(context.Context, *upscalev1.GetServerInfoRequest) (*upscalev1.GetServerInfoResponse, error) {
	res := &upscalev1.GetServerInfoResponse{
		Version:            version.Version,
		FfmpegVersion:      av.FFmpegVersion(),
		OnnxruntimeVersion: s.cfg.EngineVersion,
		MaxJobs:            uint32(s.limits.MaxJobs),
		RunningJobs:        uint32(s.runningJobs()),
		MaxInputPixels:     uint64(s.limits.MaxInputPixels),
		JobMemoryBytes:     uint64(s.limits.JobMemory()),
	}
	for _, d := range s.cfg.Scheduler.Devices() {
		res.Devices = append(res.Devices, deviceMessage(d))
	}
	return res, nil
}
