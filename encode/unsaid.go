package encode

import (
	"fmt"
	"slices"
	"strings"

	"upscaler/internal/av"
	"upscaler/internal/notice"

	"github.com/asticode/go-astiav"
)

// ofContainer tells whether a key of a file's metadata is about its old container, not about what is in it.
func ofContainer(key string) bool {
	switch strings.ToLower(key) {
	case "major_brand", "minor_version", "compatible_brands", "encoder", "software", "duration":
		return true
	}
	return false
}

// ofCoding tells whether a key of a stream's metadata is about its old bytes.
func ofCoding(key string) bool {
	key = strings.ToUpper(key)
	return key == "ENCODER" || key == "DURATION" || strings.HasPrefix(key, "BPS") || strings.HasPrefix(key, "NUMBER_OF_") ||
		strings.HasPrefix(key, "_STATISTICS")
}

// hasPhoneKeys tells whether a file has metadata under names of its maker's, which MP4 and QuickTime hold in a place of their own.
func hasPhoneKeys(m *av.Media) bool {
	return slices.ContainsFunc(m.Metadata, func(kv av.KeyValue) bool { return strings.HasPrefix(kv.Key, "com.") })
}

// maxUnsaid is how many things a notice of lost metadata names, and maxKey how many bytes of a key: they are a stranger's.
const (
	maxUnsaid = 12
	maxKey    = 40
)

// tellUnsaid names the metadata and the roles of streams that the container has no place for.
func (l *Layout) tellUnsaid(m *av.Media) {
	can := l.container.says
	var lost []string
	if mp4 := l.Container == ContainerMP4 || l.Container == ContainerMOV; !can.all && (!mp4 || !hasPhoneKeys(m)) {
		lost = unsaid(m.Metadata, can.file, func(key string) bool { return ofContainer(key) || key == "timecode" })
	}
	for i, s := range m.Streams {
		if l.streams[i] < 0 {
			continue
		}
		var here []string
		keys := can.streams
		if i == m.VideoIndex && can.video != nil {
			keys = can.video
		}
		if !can.all {
			here = unsaid(s.Metadata, keys, func(key string) bool {
				// Handlers are QuickTime's, and a stream is as old as its file.
				return ofCoding(key) || slices.Contains([]string{"handler_name", "vendor_id", "creation_time"}, key)
			})
		}
		for _, r := range roleNames {
			if s.Disposition.Has(r.flag) && !can.roles.Has(r.flag) && (r.flag != astiav.DispositionFlagDefault || oneOfMany(m, s)) {
				here = append(here, r.name)
			}
		}
		if len(here) > 0 {
			lost = append(lost, fmt.Sprintf("of stream %d %s", i, strings.Join(here, ", ")))
		}
	}
	if len(lost) == 0 {
		return
	}
	if more := len(lost) - maxUnsaid; more > 0 {
		lost = append(lost[:maxUnsaid], fmt.Sprintf("%d more", more))
	}
	where := ""
	if !can.all {
		where = ", Matroska has"
	}
	l.lose(notice.MetadataReduced, notice.NoStream, "Metadata is left out that %s has no place for%s: %s.", l.container.label, where, strings.Join(lost, "; "))
}

// unsaid returns the keys that are not among known and mean something.
func unsaid(all []av.KeyValue, known []string, idle func(key string) bool) (keys []string) {
	for _, kv := range all {
		key := kv.Key
		if kv.Value == "" || slices.Contains(known, strings.ToLower(key)) || idle(strings.ToLower(key)) || key == "language" && kv.Value == "und" {
			continue
		}
		keys = append(keys, strings.ToValidUTF8(key[:min(len(key), maxKey)], ""))
	}
	return keys
}

// roleNames are the dispositions that people give streams.
var roleNames = []struct {
	flag astiav.DispositionFlag
	name string
}{
	{astiav.DispositionFlagDefault, "being the default"},
	{astiav.DispositionFlagForced, "being forced"},
	{astiav.DispositionFlagComment, "being a commentary"},
	{astiav.DispositionFlagHearingImpaired, "being for the hearing impaired"},
	{astiav.DispositionFlagVisualImpaired, "being for the visually impaired"},
	{astiav.DispositionFlagOriginal, "being the original"},
	{astiav.DispositionFlagDub, "being dubbed"},
	{astiav.DispositionFlagLyrics, "being lyrics"},
	{astiav.DispositionFlagKaraoke, "being karaoke"},
	{astiav.DispositionFlagCleanEffects, "being clean effects"},
}

// oneOfMany tells whether being the default makes a difference to a stream: there is another of its kind that is not.
func oneOfMany(m *av.Media, s *av.Stream) bool {
	return slices.ContainsFunc(m.Streams, func(o *av.Stream) bool {
		return o.Kind == s.Kind && !o.AttachedPicture && !o.Disposition.Has(astiav.DispositionFlagDefault)
	})
}

// keepPrograms settles whether the input's programs are repeated: where there is a place for them, and each stream belongs to one, for
// MPEG-TS has no place for others beside them. A single one says nothing that is missed.
func (l *Layout) keepPrograms(m *av.Media) {
	member := map[int]bool{}
	for _, p := range m.Programs {
		for _, i := range p.Streams {
			member[i] = true
		}
	}
	l.programs = l.Container == ContainerMPEGTS && len(m.Programs) > 0
	for i := range m.Streams {
		l.programs = l.programs && (l.streams[i] < 0 || member[i])
	}
	if l.programs || len(m.Programs) < 2 || l.encoder.still {
		return
	}
	why := "only MPEG-TS can hold them"
	if l.Container == ContainerMPEGTS {
		why = "not all streams belong to one"
	}
	l.lose(notice.MetadataReduced, notice.NoStream, "The division into %d programs is left out: %s.", len(m.Programs), why)
}
