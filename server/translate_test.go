package server

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"upscaler/decode"
	upscalev1 "upscaler/gen/upscale/v1"
)

func TestPartOf(t *testing.T) {
	table := []struct {
		name            string
		start, duration *durationpb.Duration
		want            decode.Part
		field           string // of the refusal
	}{
		{"all", nil, nil, decode.Part{}, ""},
		{"from zero", &durationpb.Duration{}, nil, decode.Part{}, ""},
		{"both", durationpb.New(time.Minute), durationpb.New(time.Second), decode.Part{Start: time.Minute, Duration: time.Second}, ""},
		{"negative start", durationpb.New(-1), nil, decode.Part{}, "start.start_time"},
		{"invalid start", &durationpb.Duration{Seconds: 1, Nanos: -1}, nil, decode.Part{}, "start.start_time"},
		{"no duration", nil, &durationpb.Duration{}, decode.Part{}, "start.duration"},
		{"negative duration", nil, durationpb.New(-time.Second), decode.Part{}, "start.duration"},
		{"endless duration", nil, &durationpb.Duration{Seconds: 1 << 60}, decode.Part{}, "start.duration"},
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			got, err := partOf(&upscalev1.Start{StartTime: c.start, Duration: c.duration})
			if c.field == "" {
				if err != nil || got != c.want {
					t.Errorf("got %+v, %v, want %+v", got, err, c.want)
				}
				return
			}
			var refused *protocolError
			if !errors.As(err, &refused) || refused.field != c.field {
				t.Errorf("got %+v, %v, want a refusal of %s", got, err, c.field)
			}
		})
	}
}
