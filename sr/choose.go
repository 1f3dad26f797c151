package sr

import (
	"cmp"
	"slices"
)

// What a job that does not name a model gets: the first that exists, flavour before tier before precision.
var (
	// What people have went through a codec; networks trained on clean pictures lose most of their gain on it.
	flavourOrder = []string{"video", "clean"}
	// s is the only tier near real time on a CPU; a GPU is idle with anything below l.
	tierOrder = map[Device][]string{CPU: {"s", "m", "l"}, CUDA: {"l", "m", "s"}}
	// int8 trained with its quantization loses less than anyone sees (models/README.md has the figures) and is two to four times
	// as fast in sr/native; fp16 is exact enough on a GPU and emulated on a CPU.
	precisionOrder = map[Device][]string{CPU: {"int8", "fp32", "fp16"}, CUDA: {"fp16", "fp32", "int8"}}
)

// ladderOrder is the tiers from the best picture to the fastest network, on any device.
var ladderOrder = []string{"l", "m", "s"}

// Ladder returns the models that can serve spec, the preferred one of each tier, from the best picture to the fastest network. When
// spec names a model it is the only one. Nothing is loaded. Errors: *NoModelError, *DeviceError.
func (s *Scheduler) Ladder(spec Spec) ([]Model, error) {
	best, d, err := s.choose(spec)
	if err != nil {
		return nil, err
	}
	if spec.Model != "" {
		return []Model{best.Model}, nil
	}
	var ladder []Model
	for _, tier := range ladderOrder {
		spec.Model = tier
		if f, err := choose(s.files, spec, d.engine.Device()); err == nil {
			ladder = append(ladder, f.Model)
		}
	}
	return ladder, nil
}

// choose returns the file that serves spec on device.
func choose(files []File, spec Spec, device Device) (File, error) {
	var best *File
	for i := range files {
		f := &files[i]
		if f.Scale != spec.Scale || spec.Model != "" && spec.Model != f.Name && spec.Model != f.Tier {
			continue
		}
		if best == nil || compareModels(f.Model, best.Model, device) < 0 {
			best = f
		}
	}
	if best == nil {
		e := &NoModelError{Spec: spec}
		for _, f := range files {
			e.Available = append(e.Available, f.Model)
		}
		return File{}, e
	}
	return *best, nil
}

// compareModels orders models of one scale by preference on device; names break ties, so that the order is total.
func compareModels(a, b Model, device Device) int {
	return cmp.Or(
		cmp.Compare(rank(flavourOrder, a.Flavour), rank(flavourOrder, b.Flavour)),
		cmp.Compare(rank(tierOrder[device], a.Tier), rank(tierOrder[device], b.Tier)),
		cmp.Compare(rank(precisionOrder[device], a.Precision), rank(precisionOrder[device], b.Precision)),
		cmp.Compare(a.Name, b.Name),
	)
}

// rank is the position of s in order; what is not in it comes last.
func rank(order []string, s string) int {
	if i := slices.Index(order, s); i >= 0 {
		return i
	}
	return len(order)
}
