# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Made-up results of the benchmark."""

import io
import os

import numpy as np

from official_ext.harmonization.benchmark import registry
from official_ext.harmonization.benchmark import results as results_lib
from official_ext.harmonization.benchmark import run_results
from official_ext.harmonization.evaluation import scores

LEVELS = [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 200]
PERCENTS = [*np.logspace(0, 2, 11), 100.0]


def score(
  name, value, ceiling=None, spread=0.02, n=500, n_undefined=0, **details
):
  """Makes a score with an interval."""
  return scores.Score(
    name=name,
    value=value,
    n=n,
    n_undefined=n_undefined,
    low=value - spread,
    high=value + spread,
    confidence=0.95,
    ceiling=ceiling,
    preprocessing='x / 255',
    details=details,
  )


def curve(threshold, /, scale=1.0, **more):
  """Makes an accuracy curve."""
  place = np.array([*range(11), 12]) / 10.0
  accuracy = 0.5 + 0.47 * scale / (1.0 + np.exp(-9 * (place - threshold)))
  return results_lib.Curve(
    **{
      'levels': LEVELS,
      'percents': [float(p) for p in PERCENTS],
      'accuracy': [float(a) for a in accuracy],
      'standard_error': [0.02] * len(LEVELS),
      **more,
    }
  )


def result(values, ceiling=None, **more):
  """Makes the result of a protocol for a model."""
  return results_lib.StoredResult(
    **{
      'settings': {},
      'table': 'models/x.csv',
      'seconds': 1.0,
      'scores': {
        name: score(name, value, ceiling if name == 'spearman' else None)
        for name, value in values.items()
      },
      **more,
    }
  )


def model(name, **found):
  """Makes a model with results by protocol."""
  return results_lib.ModelResults(
    name,
    {'spec': f'keras_app:{name}', 'files': {}},
    results_lib.AdapterFacts([224, 224], 1000, '224x224 pixels, x / 127.5 - 1'),
    found,
  )


def map_settings(ceiling=None):
  """Makes settings of a protocol with maps."""
  return {
    'input_path': 'click-me/val/*.tfrecords',
    'map_decoder': 'clickme',
    'label_offset': 0,
    'limit': None,
    'blur': True,
    'files': 18,
    'bytes': 12345,
    'ceiling': ceiling,
    'explainer': 'gradient',
    'comparison_size': 224,
  }


def report(models, twins=(), failures=(), ceiling=None, **more):
  """Makes a report of models."""
  settings = {
    'clickme': map_settings(ceiling),
    'clicktionary': map_settings(),
    'imagenet': {'input_path': 'valid*', 'files': 128},
    'psychophysics': {
      'input_path': 'stimuli',
      'stimuli': 1200,
      'rule': 'split_398',
      'human': 'people.csv',
    },
  }
  found = [
    name for name in registry.names() if any(name in m.results for m in models)
  ]
  return run_results.Report(
    **{
      'created': '2026-01-02T03:04:05+00:00',
      'command': 'evaluate --model=...',
      'versions': {'tensorflow': '2.20.0'},
      'limit': None,
      'models': list(models),
      'failures': list(failures),
      'twins': list(twins),
      'protocols': {
        name: run_results.MeasuredProtocol(
          registry.get(name).title, settings.get(name, {})
        )
        for name in found
      },
      'not_measured': {
        name: f'no --{name}' for name in registry.names() if name not in found
      },
      **more,
    }
  )


def write_examples(output_dir, name, seed, size=64, count=3):
  """Writes the examples of a model and returns their path."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:size, :size] / size
  blob = np.exp(-((x - 0.5) ** 2 + (y - 0.4) ** 2) / 0.05)
  human = np.uint8(255 * blob)[np.newaxis].repeat(count, 0)
  model_map = np.uint8(
    255 * np.clip(blob * rng.random((count, size, size)) * 1.2, 0, 1)
  )
  images = np.uint8(255 * np.stack([x, y, blob], -1))[np.newaxis].repeat(
    count, 0
  )
  buffer = io.BytesIO()
  np.savez(buffer, images=images, human=human, model=model_map)
  path = os.path.join('models', name)
  os.makedirs(os.path.join(output_dir, 'models'), exist_ok=True)
  with open(os.path.join(output_dir, path), 'wb') as f:
    f.write(buffer.getvalue())
  return path
