# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Reads every record of TFRecord files and finds those that are bad."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
import dataclasses
import fnmatch
import itertools
import os
import re
from typing import Any, NamedTuple

import tensorflow as tf
import tqdm

from official_ext.harmonization import choices
from official_ext.harmonization import files
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import record_checks
from official_ext.harmonization.data.records import record_files
from official_ext.harmonization.data.records import record_reader


class Problem(NamedTuple):
  """What is wrong with a record, or with a whole file.

  Attributes:
    file: its path.
    record: index of the record, from 0; None for a whole file.
    offset: of the record's first byte; None for a whole file.
    reason: what is wrong.
  """

  file: str
  record: int | None
  offset: int | None
  reason: str

  def __str__(self):
    if self.record is None:
      return f'{self.file}: {self.reason}'
    return (
      f'{self.file}, record {self.record} (counted from 0) at byte '
      f'{self.offset}: {self.reason}'
    )


@dataclasses.dataclass
class FileResult:
  """What was found in a file.

  Attributes:
    file: its path, or a description of several files.
    records: number of records that could be separated, good or bad.
    bytes: size of the file.
    problems: what is bad.
    warnings: what may be intended.
  """

  file: str
  records: int = 0
  bytes: int = 0
  problems: list[Problem] = dataclasses.field(default_factory=list)
  warnings: list[Problem] = dataclasses.field(default_factory=list)

  def add_findings(self, findings: Iterable[record_checks.Finding]):
    """Adds findings about the whole file to its problems and warnings."""
    for finding in findings:
      (self.problems if finding.is_bad else self.warnings).append(
        Problem(self.file, None, None, finding.text)
      )


def decoder_check(
  map_decoder: str, num_classes: int | None = None, label_offset: int = 0
) -> Callable[[bytes], str]:
  """Makes a check of the content of single records.

  Args:
    map_decoder: name of the format, see `dataloaders.registry`.
    num_classes: of the network; None accepts every label.
    label_offset: added to the recorded label.

  Returns:
    A function that takes a serialized record and returns what is wrong with it,
    or ''.
  """
  checker = record_checks.Checker(map_decoder, num_classes, label_offset)

  def check(data):
    found = checker.decode(data, map_decoder, 255.0)
    return found.problem or checker.label_problem(found.label, map_decoder)

  return check


def _unreadable(error: tf.errors.OpError) -> str:
  first_line = error.message.strip().partition('\n')[0]
  return f'it cannot be read: {first_line}'


def _problem_of(path: str, record: record_reader.Record, reason: str):
  """Describes a bad record, and how much of the file is lost with it."""
  if record.unread:
    reason += (
      f'; the records in the {record.unread} bytes from there to the end of '
      'the file cannot be separated'
    )
  return Problem(path, record.index, record.offset, reason)


def verify_file(
  path: str,
  check: Callable[[bytes], str] | None = None,
  expected: dict[str, Any] | None = None,
  progress: Callable[[int], None] = lambda size: None,
  checker: record_checks.Checker | None = None,
) -> FileResult:
  """Reads a file to its end, or as far as its records can be separated.

  Args:
    path: of the file.
    check: takes a serialized record and returns what is wrong with it, or ''.
    expected: what the manifest says of the file, if there is one.
    progress: is called with the number of bytes that were read since its last
      call.
    checker: checks each record, and the whole file, instead of `check`.

  Returns:
    What was found.
  """
  result = FileResult(path)
  file_checker = checker and checker.of_file(path)
  try:
    result.bytes = tf.io.gfile.stat(path).length
    done = 0
    for record in record_reader.read(path):
      reason = record.problem
      if not reason and file_checker:
        reason = file_checker.record(record)
      elif check and record.data is not None and not reason:
        reason = check(record.data)
      if reason:
        result.problems.append(_problem_of(path, record, reason))
      result.records += not record.unread
      progress(record.offset - done)
      done = record.offset
    progress(result.bytes - done)
    if file_checker:
      result.add_findings(file_checker.findings())
    found = _compare(result, expected)
  except tf.errors.OpError as e:
    found = _unreadable(e)
  if found:
    result.problems.append(Problem(path, None, None, found))
  return result


def _compare(result: FileResult, expected: dict[str, Any] | None) -> str:
  """Describes how a file differs from what its manifest says; '' if equal."""
  if expected is None:
    return '' if result.bytes else 'it is empty'
  for name in ('bytes', 'records'):
    found = getattr(result, name)
    if found != expected[name]:
      return f'it has {found} {name}; {manifest.FILE} says {expected[name]}'
  if manifest.sha256(result.file) != expected['sha256']:
    return f'its SHA-256 is not the one in {manifest.FILE}'
  return ''


def _expectations(paths: Iterable[str], patterns: Iterable[str]):
  """Reads the manifests next to files.

  Args:
    paths: of the files that are verified.
    patterns: that named them.

  Returns:
    What is expected of each file that a manifest lists, by path; and a list of
    `Problem`: manifests that cannot be read, files that are not listed, and
    listed files that a pattern names and that do not exist.
  """
  expected, problems = {}, []
  for folder in dict.fromkeys(os.path.dirname(path) for path in paths):
    path = os.path.join(folder, manifest.FILE)
    if not tf.io.gfile.exists(path):
      continue
    try:
      shards = manifest.read(folder)['shards']
    except ValueError as e:
      problems.append(Problem(path, None, None, str(e)))
      continue
    listed = {os.path.join(folder, shard['file']): shard for shard in shards}
    inside = {path for path in paths if os.path.dirname(path) == folder}
    named = {
      path
      for path in listed
      if any(fnmatch.fnmatch(path, pattern) for pattern in patterns)
    }
    for missing, reason in (
      (inside - set(listed), f'{manifest.FILE} does not list it'),
      (named - inside, f'{manifest.FILE} lists it, but it does not exist'),
    ):
      problems += [Problem(p, None, None, reason) for p in sorted(missing)]
    expected.update(listed)
  return expected, problems


def verify(
  patterns: Sequence[str],
  check: Callable[[bytes], str] | None = None,
  workers: int = 1,
  checker: record_checks.Checker | None = None,
) -> Iterator[FileResult]:
  """Reads every record of every file, with a progress bar.

  Args:
    patterns: paths, folders and globs, as Model Garden's `input_path`.
    check: takes a serialized record and returns what is wrong with it, or ''.
    workers: files that are read at the same time.
    checker: checks each record, each file and all of them, instead of `check`.

  Yields:
    The problems of manifests; the result of each file, sorted by path; and the
    findings about all files together.

  Raises:
    ValueError: a pattern matches no file of records.
  """
  patterns = [p for pattern in patterns for p in _paths(pattern)]
  paths = sorted({path for p in patterns for path in _files(p)})
  expected, problems = _expectations(paths, patterns)
  for problem in problems:
    yield FileResult(problem.file, problems=[problem])
  sizes = [tf.io.gfile.stat(p).length for p in paths if tf.io.gfile.exists(p)]
  bar = tqdm.tqdm(
    total=sum(sizes),
    desc=choices.plural(len(paths), 'file'),
    unit='B',
    unit_scale=True,
    disable=None,
  )

  def progress(size):
    with bar.get_lock():
      bar.update(size)

  executor = futures.ThreadPoolExecutor(workers)
  try:
    yield from executor.map(
      lambda path: verify_file(
        path, check, expected.get(path), progress, checker
      ),
      paths,
    )
  finally:
    executor.shutdown(cancel_futures=True)
    bar.close()
  everything = FileResult(choices.plural(len(paths), 'file'))
  if checker:
    everything.add_findings(checker.findings())
  if everything.problems or everything.warnings:
    yield everything


def verify_and_print(
  patterns: Sequence[str],
  workers: int,
  checker: record_checks.Checker | None,
) -> list[FileResult]:
  """Verifies files, and prints what is wrong as soon as it is found.

  Args:
    patterns: paths, folders and globs.
    workers: files that are read at the same time.
    checker: checks what is decoded; None to check only checksums.

  Returns:
    The results.
  """
  results = []
  for result in verify(patterns, None, workers, checker):
    results.append(result)
    for problem in result.problems:
      tqdm.tqdm.write(f'BAD {problem}')
    for warning in result.warnings:
      tqdm.tqdm.write(f'WARNING {warning}')
  return results


def _paths(pattern: str) -> Iterator[str]:
  """Splits a list of paths at its commas; replaces folders by their files."""
  for path in filter(None, map(str.strip, pattern.split(','))):
    path = path if '://' in path else os.path.normpath(path)
    if not tf.io.gfile.isdir(path):
      yield path
      continue
    folders = sorted({*map(os.path.dirname, record_files.in_folder(path))})
    if not folders:
      raise ValueError(
        f'{path} holds no file of records; expected TFRecord files in it or '
        'below. Check the path.'
      )
    yield from (os.path.join(folder, '*') for folder in folders)


def _files(pattern: str) -> list[str]:
  """Returns the files of a pattern; a path without wildcards may not exist."""
  if not record_files.has_wildcards(pattern) and not tf.io.gfile.exists(
    pattern
  ):
    return [pattern]
  return record_files.match(pattern)


def locate(
  paths: Sequence[str], error: tf.errors.DataLossError
) -> Problem | None:
  """Finds the record that TensorFlow failed to read.

  TensorFlow gives the offset of the record, or of its data, but not the file.
  First that offset is inspected in every file. Only if it is good in all of
  them, all files are read.

  Args:
    paths: of the files that were being read.
    error: that TensorFlow raised.

  Returns:
    The problem, or None if all files are good.
  """
  offset = re.search(r'record at (\d+)', error.message)
  passes = [(int(offset[1]) - record_reader.HEADER_SIZE, 1)] if offset else []
  for start, count in passes + [(0, None)]:
    for path in tqdm.tqdm(
      paths, desc='looking for the bad record', unit=' files', disable=None
    ):
      try:
        for record in itertools.islice(record_reader.read(path, start), count):
          if record.problem:
            return _problem_of(path, record, record.problem)
      except tf.errors.OpError as e:
        return Problem(path, None, None, _unreadable(e))
  return None


def write_report(path: str, results: Sequence[FileResult]):
  """Writes the results as a JSON file.

  Args:
    path: of the file.
    results: as from `verify`.
  """
  kinds = ('problems', 'warnings')
  content = {
    'files': [
      {
        **vars(result),
        **{
          kind: [p._asdict() for p in getattr(result, kind)] for kind in kinds
        },
      }
      for result in results
    ],
    'records': sum(r.records for r in results),
    'bytes': sum(r.bytes for r in results),
    **{kind: sum(len(getattr(r, kind)) for r in results) for kind in kinds},
  }
  files.write_json(path, content)


def summary(
  results: Sequence[FileResult], checker: record_checks.Checker | None
) -> str:
  """Returns one line: how much was read, and how much of it is bad.

  Args:
    results: as from `verify`.
    checker: that was used.
  """
  formats = '; '.join(checker.formats()) if checker else ''
  numbers = {
    'problem': sum(len(r.problems) for r in results),
    'warning': sum(len(r.warnings) for r in results),
  }
  found = [
    choices.plural(number, kind) for kind, number in numbers.items() if number
  ]
  return (
    choices.plural(sum(r.records for r in results), 'record')
    + (f' ({formats})' if formats else '')
    + f', {sum(r.bytes for r in results)} bytes: '
    + (' and '.join(found) or 'all good')
    + '.'
  )
