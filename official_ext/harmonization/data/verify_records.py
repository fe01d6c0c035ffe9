r"""Reads every record of TFRecord shards and names each that is bad.

  python -m official_ext.harmonization.data.verify_records \
      'data/click-me/train/*.tfrecords' 'data/click-me/val/*.tfrecords'

A folder means the shards in it and below. For every bad record it prints the
file, the byte and what is wrong, and continues as far as records can be told
apart. A record is bad where its checksums do not match, where the file ends
inside it, where it cannot be decoded (--nodecode checks the checksums only), or
where its label is not a class (--num_classes). The format of each file is
recognized, unless --map_decoder gives it. A file whose maps are all constant is
bad, too; a few such maps, copies of images, and a single class are warnings.
Shards with a manifest.json beside them are compared with it. The exit code is 1
when anything is bad.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
import fnmatch
import itertools
import os
import re
from typing import Any, NamedTuple

from absl import flags
from official.core import input_reader
import tensorflow as tf
import tqdm

from official_ext.harmonization import cli
from official_ext.harmonization import files
from official_ext.harmonization import resources
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import record_checks
from official_ext.harmonization.data.records import record_files
from official_ext.harmonization.data.records import record_reader
from official_ext.harmonization.dataloaders import registry

FLAGS = flags.FLAGS


def define_flags():
  """Defines the tool's flags."""
  flags.DEFINE_bool('decode', True, 'Decode every record.')
  flags.DEFINE_enum(
    'map_decoder',
    None,
    registry.names(),
    'The format of the records; recognized by default.',
  )
  flags.DEFINE_float(
    'raw_image_max',
    None,
    'White in records of raw pixels; recognized by default, if it is 1 or 255.',
  )
  flags.DEFINE_integer(
    'num_classes',
    None,
    'If given, a record is bad unless its label plus '
    '--label_offset is one of the classes 0..num_classes-1 (1..1000 of '
    '1001).',
    lower_bound=1,
  )
  flags.DEFINE_integer(
    'label_offset',
    None,
    'Added to the labels of the '
    'records; by default what training adds: 1 for the '
    'format clickme and 1001 classes, else 0.',
  )
  flags.DEFINE_integer(
    'workers',
    os.cpu_count(),
    'Files that are read at the same time.',
    lower_bound=1,
  )
  flags.DEFINE_string(
    'report', None, 'JSON file for the result: every file, every problem.'
  )


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


def decoder_check(
  map_decoder: str, num_classes: int | None = None, label_offset: int = 0
) -> Callable[[bytes], str]:
  """Makes a check of what records hold.

  Args:
    map_decoder: name of the format, see `dataloaders.registry`.
    num_classes: of the network; None accepts every label.
    label_offset: added to the recorded label.

  Returns:
    A function of a serialized record to what is wrong with it, '' if nothing.
  """
  checker = record_checks.Checker(map_decoder, num_classes, label_offset)

  def check(data):
    found = checker.decode(data, map_decoder, 255.0)
    return found.problem or checker.label_problem(found.label, map_decoder)

  return check


def _one_line(error: tf.errors.OpError) -> str:
  return error.message.strip().partition('\n')[0]


def _describe(path: str, record: record_reader.Record, reason: str) -> Problem:
  """Names a bad record, and what is lost with it."""
  if record.unread:
    reason += (
      f'; from there on, {record.unread} bytes to the end of the file '
      'cannot be told apart'
    )
  return Problem(path, record.index, record.offset, reason)


def verify_file(
  path: str,
  check: Callable[[bytes], str] | None = None,
  expected: dict[str, Any] | None = None,
  progress: Callable[[int], None] = lambda size: None,
  checker: record_checks.Checker | None = None,
):
  """Reads a file to its end, or as far as it can be read.

  Args:
    path: of the file.
    check: of a serialized record; returns what is wrong with it.
    expected: what the manifest says of the file, if there is one.
    progress: is called with how many more bytes have been read.
    checker: checks each record, and the file, in place of `check`.

  Returns:
    A dict of file, records (all that could be told apart), bytes, problems, a
    list of `Problem`, and warnings, a list of the same.
  """
  result = {
    'file': path,
    'records': 0,
    'bytes': 0,
    'problems': [],
    'warnings': [],
  }
  problems = result['problems']
  file_checker = checker and checker.of_file(path)
  try:
    result['bytes'] = tf.io.gfile.stat(path).length
    done = 0
    for record in record_reader.read(path):
      reason = record.problem
      if not reason and file_checker:
        reason = file_checker.record(record)
      elif not reason and check:
        reason = check(record.data)
      if reason:
        problems.append(_describe(path, record, reason))
      result['records'] += not record.unread
      progress(record.offset - done)
      done = record.offset
    progress(result['bytes'] - done)
    _add_findings(result, path, file_checker)
    found = _compare(result, expected)
  except tf.errors.OpError as e:
    found = f'it cannot be read: {_one_line(e)}'
  if found:
    problems.append(Problem(path, None, None, found))
  return result


def _add_findings(result, path: str, checker):
  """Notes what a checker found out about a file, or about all."""
  for finding in checker.findings() if checker else ():
    result['problems' if finding.is_bad else 'warnings'].append(
      Problem(path, None, None, finding.text)
    )


def _compare(result, expected: dict[str, Any] | None) -> str:
  """Says how a file differs from what is expected of it."""
  if expected is None:
    return '' if result['bytes'] else 'it is empty'
  for name in ('bytes', 'records'):
    if result[name] != expected[name]:
      return (
        f'it has {result[name]} {name}, {manifest.FILE} says {expected[name]}'
      )
  if manifest.sha256(result['file']) != expected['sha256']:
    return f'its SHA-256 is not the one that {manifest.FILE} says'
  return ''


def _expectations(files: Iterable[str], patterns: Iterable[str]):
  """Reads the manifests beside files.

  Args:
    files: that are verified.
    patterns: that named them.

  Returns:
    What is expected of each file beside a manifest that lists it, by path, and
    a list of `Problem`: manifests that cannot be read, files that are not
    listed, listed ones that a pattern names and that do not exist.
  """
  expected, problems = {}, []
  for folder in dict.fromkeys(os.path.dirname(file) for file in files):
    path = os.path.join(folder, manifest.FILE)
    if not tf.io.gfile.exists(path):
      continue
    try:
      shards = manifest.read(folder)['shards']
    except ValueError as e:
      problems.append(Problem(path, None, None, str(e)))
      continue
    listed = {os.path.join(folder, shard['file']): shard for shard in shards}
    inside = {file for file in files if os.path.dirname(file) == folder}
    named = {
      file
      for file in listed
      if any(fnmatch.fnmatch(file, pattern) for pattern in patterns)
    }
    for file in sorted(inside - set(listed)):
      problems.append(
        Problem(file, None, None, f'{manifest.FILE} does not list it')
      )
    for file in sorted(named - inside):
      problems.append(
        Problem(
          file, None, None, f'{manifest.FILE} lists it, but it does not exist'
        )
      )
    expected.update(listed)
  return expected, problems


def verify(
  patterns: list[str],
  check: Callable[[bytes], str] | None = None,
  workers: int = 1,
  checker: record_checks.Checker | None = None,
) -> Iterator[dict[str, Any]]:
  """Reads every record of every file, with a progress bar.

  Args:
    patterns: paths, folders and globs, as Model Garden's `input_path`.
    check: of a serialized record; returns what is wrong with it.
    workers: files that are read at the same time.
    checker: checks each record, each file and all of them, in place of `check`.

  Yields:
    What `verify_file` returns, in the order of the files; before it the
    problems of manifests, and after it those of all files, in the same form.

  Raises:
    ValueError: a pattern matches no file of records.
  """
  patterns = [p for pattern in patterns for p in _paths(pattern)]
  files = sorted({file for p in patterns for file in _files(p)})
  expected, problems = _expectations(files, patterns)
  for problem in problems:
    yield {
      'file': problem.file,
      'records': 0,
      'bytes': 0,
      'problems': [problem],
      'warnings': [],
    }
  sizes = [tf.io.gfile.stat(f).length for f in files if tf.io.gfile.exists(f)]
  bar = tqdm.tqdm(
    total=sum(sizes),
    desc=f'{len(files)} files',
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
      lambda file: verify_file(
        file, check, expected.get(file), progress, checker
      ),
      files,
    )
  finally:
    executor.shutdown(cancel_futures=True)
    bar.close()
  everything = {
    'file': f'{len(files)} files',
    'records': 0,
    'bytes': 0,
    'problems': [],
    'warnings': [],
  }
  _add_findings(everything, everything['file'], checker)
  if everything['problems'] or everything['warnings']:
    yield everything


def _paths(pattern: str) -> Iterator[str]:
  """Takes apart paths with commas between them; a folder means its files."""
  for path in filter(None, map(str.strip, pattern.split(','))):
    path = path if '://' in path else os.path.normpath(path)
    if not tf.io.gfile.isdir(path):
      yield path
      continue
    folders = sorted({*map(os.path.dirname, record_files.in_folder(path))})
    if not folders:
      raise ValueError(
        f'{path} holds no file of records; expected TFRecord '
        'files in it or below. Check the path.'
      )
    yield from (os.path.join(folder, '*') for folder in folders)


def _files(pattern: str) -> list[str]:
  """Returns the files of a pattern; a plain path may be missing."""
  found = input_reader.match_files(pattern)
  records = [
    file
    for file in found
    if not record_files.is_side_file(file)
    and not ('*' in pattern and tf.io.gfile.isdir(file))
  ]
  if not records:
    raise ValueError(
      f'{pattern} matches no file of records, only '
      f'{os.path.basename(found[0])}; expected TFRecord files. '
      'Check the path.'
    )
  return records


def locate(files: list[str], error: tf.errors.DataLossError):
  """Finds the record that TensorFlow failed to read.

  TensorFlow names its offset, or that of its data, and not its file. That place
  is looked at in every file first; all files are read only if it is good
  everywhere.

  Args:
    files: that were being read.
    error: that TensorFlow raised.

  Returns:
    A `Problem`, or None if all files are good.
  """
  said = re.search(r'record at (\d+)', error.message)
  passes = [(int(said[1]) - record_reader.HEADER_SIZE, 1)] if said else []
  for start, count in passes + [(0, None)]:
    for file in tqdm.tqdm(
      files, desc='looking for the bad record', unit=' files', disable=None
    ):
      try:
        for record in itertools.islice(record_reader.read(file, start), count):
          if record.problem:
            return _describe(file, record, record.problem)
      except tf.errors.OpError as e:
        return Problem(file, None, None, f'it cannot be read: {_one_line(e)}')
  return None


def _write_report(path: str, results: list[dict[str, Any]]):
  """Writes the results as JSON, whole or not at all."""
  content = {
    'files': [
      {
        **r,
        **{
          kind: [p._asdict() for p in r[kind]]
          for kind in ('problems', 'warnings')
        },
      }
      for r in results
    ],
    'records': sum(r['records'] for r in results),
    'bytes': sum(r['bytes'] for r in results),
    'problems': sum(len(r['problems']) for r in results),
    'warnings': sum(len(r['warnings']) for r in results),
  }
  files.write_json(path, content)


def _summary(results, checker: record_checks.Checker | None) -> str:
  """Says what was read and how much of it is bad, on one line."""
  records, size, bad, warnings = (
    sum(values)
    for values in zip(
      *(
        (r['records'], r['bytes'], len(r['problems']), len(r['warnings']))
        for r in results
      )
    )
  )
  kinds = checker.formats() if checker else []
  said = [f'{bad} problems'] * bool(bad) + [f'{warnings} warnings'] * bool(
    warnings
  )
  return (
    f'{records} records'
    + f' ({"; ".join(kinds)})' * bool(kinds)
    + f', {size} bytes: {" and ".join(said) or "all good"}.'
  )


def _unused():
  """Yields why flags have no effect, and their names."""
  if not FLAGS.decode:
    # A label is in what is decoded, whatever the format.
    yield (
      'with --nodecode, which checks checksums only',
      ('num_classes', 'label_offset', 'raw_image_max'),
    )
  if FLAGS.num_classes is None:
    yield 'without --num_classes', ('label_offset',)
  if FLAGS.map_decoder and not registry.is_raw(FLAGS.map_decoder):
    yield (
      f'with --map_decoder={FLAGS.map_decoder}, whose images are encoded',
      ('raw_image_max',),
    )


def main(argv):
  """Verifies the files that the arguments name."""
  if not argv[1:]:
    raise SystemExit(
      'verify_records: no file is named. Add paths, folders or '
      'patterns of TFRecord files.'
    )
  unused = cli.without_effect(_unused())
  if unused:
    raise ValueError(unused)
  checker = None
  if FLAGS.decode:
    checker = record_checks.Checker(
      FLAGS.map_decoder,
      FLAGS.num_classes,
      FLAGS.label_offset,
      FLAGS.raw_image_max,
    )
  results = []
  for result in verify(
    [resources.working_path(a) for a in argv[1:]], None, FLAGS.workers, checker
  ):
    results.append(result)
    for kind, said in (('problems', 'BAD'), ('warnings', 'WARNING')):
      for found in result[kind]:
        tqdm.tqdm.write(f'{said} {found}')
  if FLAGS.report:
    _write_report(resources.working_path(FLAGS.report), results)
  print(_summary(results, checker))
  bad = any(r['problems'] for r in results)
  if bad:
    raise SystemExit(1)


def run():
  """The console command."""
  define_flags()
  cli.run(main, __name__, takes_arguments=True, resumes=False)


if __name__ == '__main__':
  run()
