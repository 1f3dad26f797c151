package decode

import (
	"encoding/binary"
	"strings"
)

// access is how a file has to be read, as far as its first bytes tell.
type access int

const (
	accessUnknown access = iota // more bytes are needed
	accessStream                // front to back
	accessSeek                  // an MP4 whose index (moov) comes after the media data (mdat): not before its last bytes are there
	accessPicture               // TIFF and animated PNG: FFmpeg reads them back and forth, or asks for their size
)

// scanHead finds out how a file has to be read. need is how many bytes of it have to be there for a next try when the answer is
// accessUnknown.
func scanHead(head []byte) (a access, need int) {
	switch {
	case strings.HasPrefix(string(head), pngMagic):
		return scanPNG(head)
	case strings.HasPrefix(string(head), "II*\x00"), strings.HasPrefix(string(head), "MM\x00*"):
		return accessPicture, 0
	}
	return scanBoxes(head)
}

const pngMagic = "\x89PNG\r\n\x1a\n"

// scanPNG walks the chunks of a PNG file as far as the first that tells whether it is animated: the animation's control chunk
// must come before the image data.
func scanPNG(head []byte) (a access, need int) {
	const header, checksum = 8, 4 // length and name; CRC
	at := len(pngMagic)
	for {
		if at+header > len(head) {
			return accessUnknown, at + header
		}
		switch string(head[at+4 : at+8]) {
		case "acTL":
			return accessPicture, 0
		case "IDAT", "IEND":
			return accessStream, 0
		}
		size := uint64(binary.BigEndian.Uint32(head[at:]))
		if size > maxHead || at > maxHead {
			return accessStream, 0 // a profile of that size comes before a picture, if at all
		}
		at += header + int(size) + checksum
	}
}

// maxHead is how many bytes of an input are looked at to learn how it has to be read. An MP4 that has neither index nor media
// data by then (a large free or uuid box comes first) is treated as one with its index at the end: that is always right, only
// slower.
const maxHead = 1 << 20

// scanBoxes walks the top-level boxes (ISO/IEC 14496-12, 4.2) at the beginning of a file. need is how many bytes of the file
// have to be there for a next try when the answer is accessUnknown. Files that are not MP4 or MOV are read front to back.
func scanBoxes(head []byte) (a access, need int) {
	const header, largeHeader = 8, 16
	at := 0
	for {
		if at+header > len(head) {
			if at+header > maxHead {
				return accessSeek, 0
			}
			return accessUnknown, at + header
		}
		size := uint64(binary.BigEndian.Uint32(head[at:]))
		least := uint64(header)
		switch string(head[at+4 : at+8]) {
		case "moov", "moof", "styp", "sidx":
			return accessStream, 0
		case "mdat":
			return accessSeek, 0
		case "ftyp", "free", "skip", "wide", "uuid", "meta", "pnot", "PICT", "prft", "emsg":
		default:
			if at == 0 {
				return accessStream, 0 // no MP4
			}
			// A box of an unknown kind is skipped as ISO/IEC 14496-12 asks for.
		}
		switch size {
		case 0: // to the end of the file: no index can follow
			return accessStream, 0
		case 1:
			if at+largeHeader > len(head) {
				return accessUnknown, at + largeHeader
			}
			size, least = binary.BigEndian.Uint64(head[at+8:]), largeHeader
		}
		if size < least {
			return accessStream, 0 // broken; FFmpeg may still make something of it
		}
		if size > maxHead {
			return accessSeek, 0
		}
		at += int(size)
	}
}

// knownMagic tells whether a file begins like one of the usual formats, for a better answer when it cannot be opened.
func knownMagic(head []byte) bool {
	switch {
	case len(head) < 8:
		return false
	case string(head[4:8]) == "ftyp", string(head[4:8]) == "moov", string(head[4:8]) == "wide":
		return true
	}
	for _, magic := range []string{"\x1aE\xdf\xa3", "FLV\x01", "RIFF", "OggS", "\x89PNG", "GIF8", "\x00\x00\x01\xba", "\x00\x00\x00\x01"} {
		if strings.HasPrefix(string(head), magic) {
			return true
		}
	}
	return false
}
