# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""A small PyTorch network for the embedded digits."""

from official_ext.harmonization import files

WIDTHS = (16, 32, 64)
_CLASSES = 10


def network():
  """Builds a network from images (B, 3, h, w) to logits (B, 10).

  Returns:
    A `torch.nn.Module` with random weights.
  """
  import torch  # Optional, and slow to import.

  parts, channels = [], 3
  for width in WIDTHS:
    parts += [
      torch.nn.Conv2d(channels, width, 3, padding=1),
      torch.nn.ReLU(),
      torch.nn.MaxPool2d(2),
    ]
    channels = width
  return torch.nn.Sequential(
    *parts,
    torch.nn.AdaptiveAvgPool2d(1),
    torch.nn.Flatten(),
    torch.nn.Linear(channels, _CLASSES),
  )


def train(batches, path):
  """Trains the network once over the batches and saves its weights.

  Args:
    batches: pairs of images (B, 3, h, w) and classes (B,), as arrays.
    path: file for the weights.
  """
  import torch

  torch.manual_seed(0)
  model = network()
  optimizer = torch.optim.Adam(model.parameters(), 2e-3)
  for images, labels in batches:
    logits = model(torch.from_numpy(images.copy()))
    loss = torch.nn.functional.cross_entropy(
      logits, torch.from_numpy(labels).long()
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
  with files.replacing(path) as partial:
    torch.save(model.state_dict(), partial)
