#!/bin/bash
# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0
# Writes .bazelrc.offline: Bazel takes absolute paths only, so these lines
# cannot be kept in the repository.
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
debian=/usr/share/bazel
stubs=$root/third_party/bazel

{
  echo "build --//tools/python:interpreter=$root/.venv/bin/python"
  # For the tests: the interpreter to expect, and the packages that only tests need.
  echo "test --test_env=HARMONIZATION_PYTHON=$root/.venv/bin/python"
  echo "test --test_env=HARMONIZATION_OPTIONAL=$root/.cache"
  # Bazel does not see .venv. Without this line it would keep test results from
  # before a change of the lock files.
  echo "test --test_env=HARMONIZATION_LOCK=$(cat requirements*.lock | sha256sum | cut -c1-16)"
  # Debian's Bazel would download these; other versions contain newer ones.
  if [[ -d $debian/platforms && "$(command -v "${BAZEL:-bazel}")" -ef /usr/bin/bazel ]]; then
    echo "common:offline --override_repository=platforms=$debian/platforms"
    echo "common:offline --override_repository=rules_java=$debian/rules/java"
    echo "common:offline --override_repository=rules_proto=$debian/rules/proto"
    echo "common:offline --override_repository=rules_cc=$stubs/rules_cc"
    echo "common:offline --override_repository=remote_coverage_tools=$stubs/remote_coverage_tools"
    echo "common --config=offline"
  fi
} > .bazelrc.offline
