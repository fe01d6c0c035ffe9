#!/bin/bash
# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0
# Installs Debian's Bazel and the rules that its package does not contain.
set -euo pipefail

packages=(bazel-bootstrap bazel-platforms bazel-rules-java bazel-rules-proto)
if ! command -v apt-get > /dev/null; then
  echo "Bazel is missing, and apt-get, which could install it, too. See https://bazel.build/install/bazelisk" >&2
  exit 1
fi
sudo=()
if [[ $EUID -ne 0 ]]; then
  sudo=(sudo)
  if ! command -v sudo > /dev/null; then
    echo "Bazel is missing. As root, run: apt-get install ${packages[*]}" >&2
    exit 1
  fi
fi

echo "Bazel is missing: installing ${packages[*]} with apt-get."
"${sudo[@]}" apt-get update -q
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -q --no-install-recommends "${packages[@]}"
