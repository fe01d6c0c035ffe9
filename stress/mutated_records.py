r"""Damages records in every way and says what became of each.

  python -m stress.mutated_records \
      --output=runs/benchmarks/mutated_records.jsonl

A few good records of every format are mutated (`mutations.records`), and each
mutation goes through training and evaluation, with on_bad_record 'fail' and
'skip', and through verify_records (`mutations.trials` names the outcomes). That
happens in a second process: one that ends or says nothing for --timeout
seconds is started again, and the records it was at are run one by one, so that
a crash or a hang has its record. One JSON line per chunk; a chunk whose line is
there is not repeated. The tables stand in the file's twin that ends in .md. The
exit code is 1 if any record crashed, hung, was lost in silence, or failed
without a name.
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
  'records', 10000, 'Mutations of all formats together.', lower_bound=1
)
_CHUNK = flags.DEFINE_integer(
  'chunk', 200, 'Mutations per line.', lower_bound=1
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of the mutations.')
_TIMEOUT = flags.DEFINE_float(
  'timeout', 120.0, 'Seconds without a word from the process that reads.'
)
_WORKER = flags.DEFINE_bool('worker', False, 'Be the process that reads.')

# Raw records have a megabyte each, and no picture to be decoded.
_SHARES = {
  'clickme': 0.35,
  'canonical': 0.35,
  'clickme_2018': 0.15,
  'clickme_per_category': 0.15,
}
_BAD = ('silent', 'unnamed', 'crash', 'hang')


# ---- The process that reads ----


def _work():
  """Answers jobs, one JSON line each, until there are no more."""
  from stress.mutations import runs

  with tempfile.TemporaryDirectory() as folder:
    runner = runs.Runs(folder, _say)
    for line in sys.stdin:
      _say({'results': runner.run(**json.loads(line))})


def _say(message):
  print(json.dumps(message), file=sys.__stdout__, flush=True)


# ---- Results ----


def _line(record_format, numbers, results, seconds):
  """What is kept of a chunk: counts, and all that must not be."""
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
  """Counts of outcomes as Markdown, a row for each pipeline or kind."""
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
  """Yields (format, numbers) until all mutations are dealt."""
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
      f'{_SEED.value}: {len(bad)} outcomes that may not be.',
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
