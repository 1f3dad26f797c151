#!/usr/bin/env bash
# Generates the Python stubs from the contract into stubs/, with the grpcio-tools of the Python that PYTHON names.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")"
mkdir -p stubs
"${PYTHON:-python3}" -m grpc_tools.protoc -I ../../proto --python_out=stubs --grpc_python_out=stubs ../../proto/upscale/v1/upscale.proto
