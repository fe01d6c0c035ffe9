# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Damages records in many ways and classifies how the pipelines react.

  python -m stress.mutated_records \
      --output=runs/benchmarks/mutated_records.jsonl

A few valid records of each format are mutated (`mutations.records`). Each
mutation is read by training and evaluation, with on_bad_record 'fail' and
'skip', and by verify_records (`mutations.trials` defines the outcomes). A
second process reads them. If it ends, or prints nothing for --timeout seconds,
it is started again and the records of its chunk are read one by one, so that a
crash or a hang is attributed to a record. The results have one JSON line per
chunk; chunks with a line are skipped. A file of the same name that ends in .md
contains tables. The exit code is 1 if any record caused a crash or a hang, was
lost silently, or failed with an error that does not name it.
"""

import collections
import json
import os
import sys
import tempfile
import time

from absl import app
from absl import flags
import tqdm

from stress.mutations import isolated

_OUTPUT = flags.DEFINE_string(
  'output',
  'runs/benchmarks/mutated_records.jsonl',
  'File for the results, one JSON line per chunk.',
)
_RECORDS = flags.DEFINE_integer(
  'records', 10000, 'Number of mutations, over all formats.', lower_bound=1
)
_CHUNK = flags.DEFINE_integer(
  'chunk', 200, 'Mutations per line.', lower_bound=1
)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the mutations.')
_TIMEOUT = flags.DEFINE_float(
  'timeout', 120.0, 'Seconds without output after which the reader hangs.'
)
_WORKER = flags.DEFINE_bool('worker', False, 'Run as the reader.')

# Raw records are a megabyte each and contain no encoded image.
_SHARES = {
  'clickme': 0.35,
  'canonical': 0.35,
  'clickme_2018': 0.15,
  'clickme_per_category': 0.15,
}
_BAD = ('silent', 'unnamed', 'crash', 'hang')


# ---- The reader ----


def _work():
  """Runs jobs from standard input, one JSON line each."""
  from stress.mutations import runs

  with tempfile.TemporaryDirectory() as folder:
    runner = runs.Runs(folder, _say)
    for line in sys.stdin:
      _say({'results': runner.run(**json.loads(line))})


def _say(message):
  print(json.dumps(message), file=sys.__stdout__, flush=True)


# ---- Results ----


def _line(record_format, numbers, results, seconds):
  """Returns the line of a chunk: counts, and the bad results in full."""
  counts = collections.Counter(
    (pipeline, kind, outcome) for _, kind, pipeline, outcome, _ in results
  )
  nested = {}
  for (pipeline, kind, outcome), count in sorted(counts.items()):
    nested.setdefault(pipeline, {}).setdefault(kind, {})[outcome] = count
  return {
    'format': record_format,
    'seed': _SEED.value,
    'first': numbers[0],
    'count': len(numbers),
    'seconds': round(seconds, 1),
    'outcomes': nested,
    'bad': [r for r in results if r[3] in _BAD],
  }


def _table(lines, by):
  """Formats counts of outcomes as Markdown, a row per pipeline or kind."""
  counts = collections.defaultdict(collections.Counter)
  for line in lines:
    for pipeline, kinds in line['outcomes'].items():
      for kind, outcomes in kinds.items():
        counts[pipeline if by == 'pipeline' else kind].update(outcomes)
  columns = ['unchanged', 'as it reads now', 'named', 'skipped', *_BAD]
  text = [
    f'| {by} | ' + ' | '.join(columns) + ' |',
    '|---|' + '---:|' * len(columns),
  ]
  for row, found in sorted(counts.items()):
    text.append(
      f'| {row} | ' + ' | '.join(f'{found[c]:,}' for c in columns) + ' |'
    )
  return '\n'.join(text)


def _key(line):
  return tuple(line[k] for k in ('format', 'seed', 'first', 'count'))


def _read_lines(path):
  if not os.path.exists(path):
    return {}
  with open(path) as f:
    return {_key(line): line for line in map(json.loads, f)}


def _chunks():
  """Yields the chunks of all mutations as (format, numbers)."""
  for record_format, share in _SHARES.items():
    total = round(share * _RECORDS.value)
    for first in range(0, total, _CHUNK.value):
      yield record_format, list(range(first, min(first + _CHUNK.value, total)))


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  if _WORKER.value:
    _work()
    return
  os.makedirs(os.path.dirname(_OUTPUT.value) or '.', exist_ok=True)
  lines, kept = _read_lines(_OUTPUT.value), []
  reader = isolated.Reader(
    [sys.executable, '-m', 'stress.mutated_records', '--worker'], _TIMEOUT.value
  )
  with tqdm.tqdm(total=sum(len(n) for _, n in _chunks()), unit='record') as bar:
    for record_format, numbers in _chunks():
      key = (record_format, _SEED.value, numbers[0], len(numbers))
      if key not in lines:
        start = time.time()
        results = isolated.run(
          reader, numbers, record_format=record_format, seed=_SEED.value
        )
        lines[key] = _line(record_format, numbers, results, time.time() - start)
        with open(_OUTPUT.value, 'a') as f:
          f.write(json.dumps(lines[key]) + '\n')
      kept.append(lines[key])
      bar.update(len(numbers))
  reader.close()
  bad = [b for line in kept for b in line['bad']]
  text = '\n\n'.join(
    [
      f'{sum(line["count"] for line in kept)} mutated records, seed '
      f'{_SEED.value}: {len(bad)} bad outcomes.',
      _table(kept, 'pipeline'),
      _table(kept, 'mutation'),
    ]
  )
  print(text)
  with open(os.path.splitext(_OUTPUT.value)[0] + '.md', 'w') as f:
    f.write(text + '\n')
  if bad:
    raise SystemExit(1)


if __name__ == '__main__':
  app.run(main)
