# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Pairs of model maps and human maps for tests of alignment metrics."""

import numpy as np
from scipy import stats


def tied(seed=0, size=(4, 12, 11)):
  """Model maps without ties and human maps that are mostly zeros."""
  rng = np.random.default_rng(seed)
  model = rng.normal(size=size).astype(np.float32)
  human = np.maximum(rng.integers(-16, 12, size), 0).astype(np.float32)
  return model, human


def both_tied():
  """Maps of a few values each, that agree in part."""
  human = tied(1)[1]
  model = np.round(human + 2.0 * tied(2)[0]).astype(np.float32)
  return model, human


def close():
  """Values that differ in their last bits, around zero and far from it."""
  rng = np.random.default_rng(3)
  steps = rng.integers(-40, 40, (2, 4, 9, 9))
  far = np.nextafter(np.float32(1e4), np.float32(np.inf)) - np.float32(1e4)
  return (
    np.float32(1e4) + far * steps[0].astype(np.float32),
    np.float32(1e-30) * steps[1].astype(np.float32),
  )


def large():
  """224x224, half of the human map zero and the rest 8-bit grey."""
  model, human = tied(4, (2, 224, 224))
  rng = np.random.default_rng(5)
  ramp = np.add.outer(np.arange(224.0), np.arange(224.0))
  human = np.floor(np.maximum(ramp - 224.0 + 20.0 * human, 0.0))
  model[1] = np.round(ramp / 20.0 + rng.normal(size=ramp.shape))
  return model, human.astype(np.float32)


def with_undefined():
  """Five pairs, of which the last alone can be scored."""
  model, human = tied(size=(5, 12, 11))
  human[0] = 3.0
  model[1] = 0.0
  model[2, 0, 0] = np.inf
  model[3, 0, 0] = np.nan
  return model, human


NAMED = (
  ('tied', tied),
  ('both_tied', both_tied),
  ('close', close),
  ('large', large),
)


def own_and_shuffled(models, humans):
  """Returns both means over images, by a loop over all pairs of two images.

  Args:
    models: pairs (i, j) are formed of map i of these,
    humans: and map j of these. Images without ranks of both count nowhere.
  """

  def ranks(one):
    centred = stats.rankdata(np.ravel(one)) - (np.size(one) + 1) / 2
    return centred / np.linalg.norm(centred)

  def has_ranks(one):
    return np.all(np.isfinite(one)) and np.min(one) < np.max(one)

  pairs = [
    (ranks(m), ranks(h))
    for m, h in zip(models, humans)
    if has_ranks(m) and has_ranks(h)
  ]
  own, shuffled = [], []
  for i, (model, _) in enumerate(pairs):
    for j, (_, human) in enumerate(pairs):
      (own if i == j else shuffled).append(model @ human)
  return np.mean(own), np.mean(shuffled)
