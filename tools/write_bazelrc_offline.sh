#!/bin/bash
# Writes .bazelrc.offline: Bazel takes absolute paths only, so these lines
# cannot be kept in the repository.
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
debian=/usr/share/bazel
stubs=$root/third_party/bazel

{
  echo "build --//tools/python:interpreter=$root/.venv/bin/python"
  # For the tests: which interpreter to find, and where the released package is.
  echo "test --test_env=HARMONIZATION_PYTHON=$root/.venv/bin/python"
  echo "test --test_env=HARMONIZATION_RELEASED=$root/.cache/released"
  # Bazel does not see .venv: without this, results from before a change of the
  # lock would count as still valid.
  echo "test --test_env=HARMONIZATION_LOCK=$(cat requirements*.lock | sha256sum | cut -c1-16)"
  # Debian's Bazel would download these; any other Bazel has newer ones.
  if [[ -d $debian/platforms && "$(command -v "${BAZEL:-bazel}")" -ef /usr/bin/bazel ]]; then
    echo "common:offline --override_repository=platforms=$debian/platforms"
    echo "common:offline --override_repository=rules_java=$debian/rules/java"
    echo "common:offline --override_repository=rules_proto=$debian/rules/proto"
    echo "common:offline --override_repository=rules_cc=$stubs/rules_cc"
    echo "common:offline --override_repository=remote_coverage_tools=$stubs/remote_coverage_tools"
    echo "common --config=offline"
  fi
} > .bazelrc.offline
