"""Upscales a camera's stream as it comes, with a running sr-server.

    python live.py OUT.ts [SERVER [SECONDS]]

OUT.ts may be - for standard output, as in `python live.py - | mpv -`. SERVER is host:port or unix:/path; the default is
127.0.0.1:50051. The camera here is a test picture that FFmpeg's program makes, for SECONDS (10) or until Ctrl+C; put the
command of a real one in its place. See README.md for the stubs this imports.
"""

import subprocess
import sys

import grpc
from upscale.v1 import upscale_pb2 as pb
from upscale.v1 import upscale_pb2_grpc as rpc


def camera(seconds):
    """Starts a program that writes MPEG-TS as it happens: H.264 with the least delay, and a tone."""
    return subprocess.Popen(
        ["ffmpeg", "-v", "error", "-re", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25",
         "-re", "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000", "-t", str(seconds),
         "-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "25", "-pix_fmt", "yuv420p",
         "-c:a", "aac", "-f", "mpegts", "-flush_packets", "1", "-"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


def requests(source):
    """Yields the settings once, then what the camera has written, without waiting until it is much."""
    yield pb.UpscaleRequest(start=pb.Start(
        mode=pb.MODE_LIVE, input=pb.Input(name="camera.ts"), output=pb.Output(container=pb.CONTAINER_MPEGTS)))
    while data := source.read1(31 << 10):
        yield pb.UpscaleRequest(chunk=pb.Chunk(data=data))


def upscale(source, out, server):
    """Writes what the server answers to out, piece by piece, and returns its summary."""
    with grpc.insecure_channel(server) as channel:
        for response in rpc.UpscaleServiceStub(channel).Upscale(requests(source)):
            kind = response.WhichOneof("payload")
            if kind == "chunk":
                out.write(response.chunk.data)
                out.flush()
            elif kind == "progress":
                live = response.progress.live
                print(f"{live.level}: {live.fps_in:.1f} fps in, {live.fps_out:.1f} out, {live.latency_p50.ToMilliseconds()} ms behind, "
                      f"{live.dropped_late + live.dropped_undecoded} frames dropped", file=sys.stderr)
            elif kind == "notice":
                print(f"note: {response.notice.text}", file=sys.stderr)
            elif kind == "summary":
                return response.summary
    raise RuntimeError("the stream ended without a summary")


def main():
    if len(sys.argv) not in (2, 3, 4):
        sys.exit(__doc__)
    out = sys.stdout.buffer if sys.argv[1] == "-" else open(sys.argv[1], "wb")
    server = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:50051"
    source = camera(sys.argv[3] if len(sys.argv) > 3 else 10)
    try:
        summary = upscale(source.stdout, out, server)
        print(f"{summary.frames_encoded} of {summary.frames_decoded} frames, {summary.bytes_out} bytes", file=sys.stderr)
    except grpc.RpcError as error:  # the server says in one sentence what is wrong
        sys.exit(f"{error.code().name}: {error.details()}")
    finally:
        source.kill()
        source.wait()
        out.close()


if __name__ == "__main__":
    main()
