package decode

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// box returns a box of a type with a content of n zero bytes.
func box(kind string, n int) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+n))
	return string(append(append(b, kind...), make([]byte, n)...))
}

// largeBox returns the header of a box with a 64-bit size, and content.
func largeBox(kind string, size uint64, content int) string {
	b := append([]byte{0, 0, 0, 1}, kind...)
	return string(append(binary.BigEndian.AppendUint64(b, size), make([]byte, content)...))
}

var boxCases = []struct {
	name string
	head string
	want access
	need int // when more is needed
}{
	{"nothing", "", accessUnknown, 8},
	{"half a header", "\x00\x00\x00", accessUnknown, 8},
	{"index first", box("ftyp", 16) + box("moov", 0), accessStream, 0},
	{"index first, header only", box("ftyp", 16) + "\x00\x00\xff\xffmoov", accessStream, 0},
	{"index last", box("ftyp", 16) + box("free", 0) + "\x00\x10\x00\x00mdat", accessSeek, 0},
	{"old QuickTime", box("wide", 0) + "\x00\x00\x00\x00mdat", accessSeek, 0},
	{"media data with a large size", box("ftyp", 16) + largeBox("mdat", 1<<40, 0), accessSeek, 0},
	{"fragment", box("styp", 16) + box("moof", 0), accessStream, 0},
	{"more to skip", box("ftyp", 16), accessUnknown, 24 + 8},
	{"more of a skipped box", "\x00\x00\x20\x00uuid", accessUnknown, 0x2000 + 8},
	{"large size not there yet", box("ftyp", 16) + "\x00\x00\x00\x01uuid", accessUnknown, 24 + 16},
	{"skipped box beyond the limit", box("ftyp", 16) + "\x7f\xff\xff\xffuuid", accessSeek, 0},
	{"skipped box of 2^63 bytes", box("ftyp", 16) + largeBox("free", 1<<63, 0), accessSeek, 0},
	{"skipped box of 2^64-1 bytes", box("ftyp", 16) + largeBox("free", 1<<64-1, 0), accessSeek, 0},
	{"skipped box up to the limit", box("ftyp", 16) + "\x00\x0f\xff\xe8free", accessSeek, 0},
	{"unknown box after the first", box("ftyp", 16) + box("abcd", 4) + box("moov", 0), accessStream, 0},
	{"picture (HEIF)", box("ftyp", 16) + box("meta", 100) + box("mdat", 8), accessSeek, 0},
	{"skipped box to the end of the file", box("ftyp", 16) + "\x00\x00\x00\x00free", accessStream, 0},
	{"box smaller than its header", box("ftyp", 16) + "\x00\x00\x00\x07free", accessStream, 0},
	{"large box smaller than its header", box("ftyp", 16) + largeBox("free", 15, 0), accessStream, 0},
	{"Matroska", "\x1aE\xdf\xa3\x01\x00\x00\x00\x00\x00\x00\x1f", accessStream, 0},
	{"text", "ffconcat version 1.0\n", accessStream, 0},
}

func TestScanBoxes(t *testing.T) {
	for _, c := range boxCases {
		got, need := scanBoxes([]byte(c.head))
		if got != c.want || need != c.need {
			t.Errorf("%s: %v, need %d; want %v, need %d", c.name, got, need, c.want, c.need)
		}
	}
}

// Whatever the bytes: the scan ends, asks for more only beyond what it has and within its limit, and more bytes never change
// an answer.
func FuzzScanBoxes(f *testing.F) {
	for _, c := range boxCases {
		f.Add([]byte(c.head), []byte("\x00\x00\x00\x08moov"))
	}
	f.Fuzz(func(t *testing.T, head, more []byte) {
		got, need := scanBoxes(head)
		if got == accessUnknown {
			if need <= len(head) || need > maxHead {
				t.Fatalf("has %d bytes, needs %d", len(head), need)
			}
			return
		}
		if again, _ := scanBoxes(append(bytes.Clone(head), more...)); again != got {
			t.Fatalf("%v becomes %v with more bytes", got, again)
		}
	})
}

func TestKnownMagic(t *testing.T) {
	for head, want := range map[string]bool{
		"": false, "RIFF": false, "RIFF\x00\x00\x00\x00AVI LIST": true, box("ftyp", 8): true, "\x1aE\xdf\xa3\x01\x00\x00\x00": true,
		"FLV\x01\x05\x00\x00\x00\x09": true, strings.Repeat("x", 100): false,
	} {
		if got := knownMagic([]byte(head)); got != want {
			t.Errorf("%q: %v", head, got)
		}
	}
}

func TestScanHead(t *testing.T) {
	chunk := func(kind string, size uint32) string {
		return string(binary.BigEndian.AppendUint32(nil, size)) + kind
	}
	header := pngMagic + chunk("IHDR", 13) + strings.Repeat("x", 17)
	for _, c := range []struct {
		name, head string
		access     access
		need       int
	}{
		{"tiff, little endian", "II*\x00\x08\x00\x00\x00", accessPicture, 0},
		{"tiff, big endian", "MM\x00*\x00\x00\x00\x08", accessPicture, 0},
		{"png, magic only", pngMagic, accessUnknown, len(pngMagic) + 8},
		{"png, header only", header, accessUnknown, len(header) + 8},
		{"still png", header + chunk("IDAT", 100), accessStream, 0},
		{"animated png", header + chunk("acTL", 8), accessPicture, 0},
		{"profile before the animation", header + chunk("iCCP", 3) + "abc1234" + chunk("acTL", 8), accessPicture, 0},
		{"profile of an absurd size", header + chunk("iCCP", 1<<31), accessStream, 0},
		{"empty png", header + chunk("IEND", 0), accessStream, 0},
		{"matroska", "\x1aE\xdf\xa3\x01\x00\x00\x00", accessStream, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if a, need := scanHead([]byte(c.head)); a != c.access || need != c.need {
				t.Errorf("scanHead = %d, %d, want %d, %d", a, need, c.access, c.need)
			}
		})
	}
}
