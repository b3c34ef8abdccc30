#!/usr/bin/env bash
# Builds the official etcd server, etcdctl, etcdutl and etcd's benchmark tool from the Go module proxy into
# tests/.cache/bin. Versions and sums are pinned by go.mod and go.sum beside this file. Prints the folder.
# Nothing is rebuilt while go.mod and go.sum stay the same.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=$here/../.cache/bin
mkdir -p "$bin"
bin=$(cd "$bin" && pwd)
exec 9>"$bin/.lock"
flock 9

# build FOLDER PACKAGE PROGRAM: one program, built unless its stamp says that it came from the same pins.
build() {
    local folder=$1 package=$2 program=$3 stamp
    stamp=$(cat "$folder/go.mod" "$folder/go.sum" | sha256sum | cut -d' ' -f1)
    if [ -x "$bin/$program" ] && [ "$(cat "$bin/.$program.stamp" 2>/dev/null || true)" = "$stamp" ]; then
        return
    fi
    echo "building $program" >&2
    (cd "$folder" && CGO_ENABLED=0 go build -buildvcs=false -trimpath -mod=readonly -o "$bin/$program.new" "$package")
    mv "$bin/$program.new" "$bin/$program"
    echo "$stamp" >"$bin/.$program.stamp"
}

build "$here" go.etcd.io/etcd/server/v3 etcd
build "$here" go.etcd.io/etcd/etcdctl/v3 etcdctl
build "$here" go.etcd.io/etcd/etcdutl/v3 etcdutl
build "$here/benchmark" go.etcd.io/etcd/v3/tools/benchmark benchmark
echo "$bin"
