package server

import (
	"math"
	"runtime"
	"time"

	"upscaler/sr"
)

// Limits bounds what strangers can make the server do. The zero value of a field means its default.
type Limits struct {
	// MaxJobs is how many videos are worked on at once; the next is answered RESOURCE_EXHAUSTED with a time to retry.
	// More jobs than cores only make each slower: they share one engine.
	MaxJobs int

	// MaxInputPixels is the largest input frame, width times height. The decoder, the engine and the encoder each hold
	// several frames, the latter at scale squared times this.
	MaxInputPixels int64

	// FrameMemory bounds the bytes of decoded frames that a job holds, PlaneMemory those of upscaled luma planes. A video
	// whose single frame does not fit is refused.
	FrameMemory int64
	PlaneMemory int64

	// MaxSpool is the largest upload that is stored on disk because it cannot be read as a stream.
	MaxSpool int64

	// MaxUpload ends jobs that send more; 0 means no bound, as memory does not depend on the length.
	MaxUpload int64

	// MaxJobTime ends a job however well it goes on.
	MaxJobTime time.Duration

	// MaxLiveTime ends a live job however well it goes on.
	MaxLiveTime time.Duration

	// StallTimeout ends a job that made no progress for so long: no input came, no output was taken, no frame was done.
	// A client that stops reading holds a place among MaxJobs until then.
	StallTimeout time.Duration

	// FirstMessageTimeout is how long a call may take to say what it wants. It has a place among MaxJobs by then.
	FirstMessageTimeout time.Duration

	// Grace is how long running jobs may go on after the server was told to stop.
	Grace time.Duration
}

// The defaults.
const (
	// 4096 x 2304 holds 4K in both of its widths; the upscaled frame is then 8K.
	defaultMaxInputPixels = 4096 * 2304

	// Eight 4K frames of 4:2:0 at 8 bit, or two of 4:4:4 at 16 bit.
	defaultFrameMemory = 128 << 20

	// Seven 8K luma planes of 8 bit, three of 16 bit.
	defaultPlaneMemory = 256 << 20

	// A two-hour film as cameras and stores deliver it; the disk is the operator's to size.
	defaultMaxSpool = 16 << 30

	defaultMaxJobTime   = 24 * time.Hour
	defaultMaxLiveTime  = 30 * 24 * time.Hour
	defaultStallTimeout = 5 * time.Minute
	defaultFirstMessage = 10 * time.Second
	defaultGrace        = 30 * time.Second
)

// Bounds that no operator needs to change.
const (
	// sendChunk is how many bytes of output go into one message: with its framing it fits the 32 KiB buffers that gRPC
	// reuses.
	sendChunk = 31 << 10

	// sendQueue is how many messages may wait for the client: sendQueue x sendChunk = 4 MiB. Muxers write in bursts.
	sendQueue = 132

	// maxChunk is the most bytes of a file in one message. Ours sends sendChunk; others may like larger ones.
	maxChunk = 4 << 20

	// pictureSampleBytes is the most bytes that a pixel takes in a message of UpscaleFrames: four planes of 16 bits. Gaps between
	// rows have the room that less wasteful formats leave, and messageOverhead, which is also for all that is not samples.
	pictureSampleBytes = 8
	messageOverhead    = 1 << 20

	// streamWindow and connWindow bound the bytes gRPC takes from the network ahead of our reading. Setting them also
	// switches off gRPC's own growing of the window, which goes up to 16 MiB a stream.
	streamWindow = 1 << 20
	connWindow   = 4 << 20

	// maxHeaderBytes bounds a request's headers; a bearer token and tracing fit many times over.
	maxHeaderBytes = 16 << 10

	// maxStreams is how many calls one connection may have open: jobs, and calls that list things beside them.
	maxStreams = 100

	// handshakeTimeout ends connections that say nothing.
	handshakeTimeout = 10 * time.Second

	// keepaliveAfter is the silence after which a connection is asked for a sign of life, keepaliveTimeout how long that
	// may take: a client whose machine vanished frees its job half a minute later. keepaliveMin is how often clients may ask us.
	keepaliveAfter   = 20 * time.Second
	keepaliveTimeout = 10 * time.Second
	keepaliveMin     = 10 * time.Second

	// flushTimeout is how long the last messages of a job may take to reach its client when the job has failed or the server
	// stops.
	flushTimeout = 2 * time.Second

	// retryAfter is what a refused client is told to wait. A job takes seconds to hours, so this only spreads the asking.
	retryAfter = 5 * time.Second

	// progressInterval: often enough for a bar that moves, rarely enough to cost nothing.
	progressInterval = 500 * time.Millisecond

	// maxNotices bounds the notices of one job; a broken file could cause one a packet. A live job may send them again at
	// liveNoticeRate a second, for as long as it runs.
	maxNotices     = 100
	liveNoticeRate = 2
)

// withDefaults fills in what is not set.
func (l Limits) withDefaults() Limits {
	setDefault(&l.MaxJobs, 2*runtime.NumCPU())
	setDefault(&l.MaxInputPixels, defaultMaxInputPixels)
	setDefault(&l.FrameMemory, defaultFrameMemory)
	setDefault(&l.PlaneMemory, defaultPlaneMemory)
	setDefault(&l.MaxSpool, defaultMaxSpool)
	setDefault(&l.MaxJobTime, defaultMaxJobTime)
	setDefault(&l.MaxLiveTime, defaultMaxLiveTime)
	setDefault(&l.StallTimeout, defaultStallTimeout)
	setDefault(&l.FirstMessageTimeout, defaultFirstMessage)
	setDefault(&l.Grace, defaultGrace)
	return l
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// maxMessage is the largest message that a client may send: a picture of MaxInputPixels.
func (l Limits) maxMessage() int {
	return int(min(max(maxChunk, l.MaxInputPixels*pictureSampleBytes), math.MaxInt32-messageOverhead)) + messageOverhead
}

// JobMemory is the ceiling of the media memory that one job holds, in bytes: frames, planes, the last frame that the engine
// remembers, passed-through packets and bytes on their way. The decoder's and encoder's own reference frames come on top: they
// depend on the frame size and the codec's settings, never on the video's length. A call of UpscaleFrames has none of them, but
// copies of a message while gRPC takes it apart (three of a frame) or puts it together (two of an answer), and the picture that
// chroma is scaled into.
func (l Limits) JobMemory() int64 {
	return l.FrameMemory + l.PlaneMemory + sr.MemoLimit + packetMemory + sendQueue*sendChunk + streamWindow
}

// packetMemory is what the pipeline's queue and the muxer's interleaving may hold of passed-through packets.
const packetMemory = 32 << 20
