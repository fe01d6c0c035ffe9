#!/bin/bash
# Installs Debian's Bazel, with the rules that it does not bring along.
set -euo pipefail

packages=(bazel-bootstrap bazel-platforms bazel-rules-java bazel-rules-proto)
if ! command -v apt-get > /dev/null; then
  echo "Bazel is needed, and there is no apt-get to install it with: see https://bazel.build/install/bazelisk" >&2
  exit 1
fi
sudo=()
if [[ $EUID -ne 0 ]]; then
  sudo=(sudo)
  if ! command -v sudo > /dev/null; then
    echo "Bazel is needed: as root, apt-get install ${packages[*]}" >&2
    exit 1
  fi
fi

echo "Bazel is missing: installing ${packages[*]} with apt-get."
"${sudo[@]}" apt-get update -q
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -q --no-install-recommends "${packages[@]}"
