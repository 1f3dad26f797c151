"""Upscales a video with a running sr-server.

    python upscale_video.py video.mp4 video.x2.mp4 [SERVER]

SERVER is host:port or unix:/path; the default is 127.0.0.1:50051. See README.md for the stubs this imports.
"""

import hashlib
import os
import sys

import grpc
from upscale.v1 import upscale_pb2 as pb
from upscale.v1 import upscale_pb2_grpc as rpc


def requests(path):
    """Yields what the server wants to hear: the settings once, then the file in pieces."""
    yield pb.UpscaleRequest(start=pb.Start(
        scale=2,
        input=pb.Input(name=os.path.basename(path), size=os.path.getsize(path)),
        output=pb.Output(container=pb.CONTAINER_MP4, seekable=True),
    ))
    with open(path, "rb") as file:
        while data := file.read(31 << 10):
            yield pb.UpscaleRequest(chunk=pb.Chunk(data=data))


def upscale(source, target, server):
    """Writes source, upscaled, to target. gRPC runs requests() in a thread of its own while answers are read here."""
    digest, summary, part = hashlib.sha256(), None, target + ".part"
    with grpc.insecure_channel(server) as channel, open(part, "wb") as file:
        for response in rpc.UpscaleServiceStub(channel).Upscale(requests(source)):
            kind = response.WhichOneof("payload")
            if kind == "accepted":
                print(f"{response.accepted.model.name}, about {response.accepted.estimated_frames} frames")
            elif kind == "chunk":
                file.seek(response.chunk.offset)  # the server returns to earlier offsets to complete headers
                file.write(response.chunk.data)
                digest.update(response.chunk.data)
            elif kind == "progress":
                print(f"{response.progress.fraction:.0%}, {response.progress.fps:.1f} fps")
            elif kind == "notice":
                print(f"note: {response.notice.text}")
            elif kind == "summary":
                summary = response.summary
    if summary is None or summary.sha256 != digest.digest() or summary.frames_encoded != summary.frames_decoded:
        raise RuntimeError("the result did not arrive whole")
    os.replace(part, target)
    print(f"{target}: {summary.frames_encoded} frames, {os.path.getsize(target)} bytes")


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        upscale(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) == 4 else "127.0.0.1:50051")
    except grpc.RpcError as error:  # the server says in one sentence what is wrong
        sys.exit(f"{error.code().name}: {error.details()}")


if __name__ == "__main__":
    main()
