"""Upscales pictures that are NumPy arrays with a running sr-server.

    python frames.py in.npy out.npy [SERVER]

in.npy holds bytes (uint8) of the shape (count, height, width), which are gray, or (count, 3, height, width): Y, Cb and Cr.
SERVER is host:port or unix:/path; the default is 127.0.0.1:50051. See README.md for the stubs this imports.
"""

import sys

import grpc
import numpy as np
from upscale.v1 import upscale_pb2 as pb
from upscale.v1 import upscale_pb2_grpc as rpc

# A message holds a whole picture, and an answer is four times as large; gRPC's own limit is 4 MiB.
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def upscale(server, pictures):
    """Yields the pictures, twice as large, in order. gRPC runs requests() in a thread of its own."""
    *planes, height, width = pictures.shape[1:]

    def requests():
        yield pb.UpscaleFramesRequest(start=pb.FramesStart(
            width=width, height=height, pixel_format="yuv444p" if planes else "gray"))
        for number, picture in enumerate(pictures):
            yield pb.UpscaleFramesRequest(frame=pb.Frame(data=picture.tobytes(), pts=number))

    with grpc.insecure_channel(server, options=OPTIONS) as channel:
        answers = rpc.UpscaleServiceStub(channel).UpscaleFrames(requests())
        accepted = next(answers).accepted
        for answer in answers:
            yield np.frombuffer(answer.frame.data, np.uint8).reshape(*planes, accepted.height, accepted.width)


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    pictures = np.load(sys.argv[1])
    if pictures.dtype != np.uint8 or pictures.ndim not in (3, 4) or pictures.ndim == 4 and pictures.shape[1] != 3:
        sys.exit(f"{sys.argv[1]} holds {pictures.dtype} of the shape {pictures.shape}.\n{__doc__}")
    try:
        large = np.stack(list(upscale(sys.argv[3] if len(sys.argv) == 4 else "127.0.0.1:50051", pictures)))
    except grpc.RpcError as error:  # the server says in one sentence what is wrong
        sys.exit(f"{error.code().name}: {error.details()}")
    np.save(sys.argv[2], large)
    print(f"{sys.argv[2]}: {large.shape}")


if __name__ == "__main__":
    main()
