# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Configuration of backbones that Model Garden's factory does not have."""

import dataclasses

from official.modeling import hyperparams
from official.vision.configs import backbones


@dataclasses.dataclass
class KerasApplication(hyperparams.Config):
  """A network of `tf_keras.applications`; see `modeling.keras_application`.

  Attributes:
    name: name in `tf_keras.applications`, such as 'VGG16', 'ResNet50V2',
      'EfficientNetB0' or 'ConvNeXtTiny'.
    weights: initial weights: '' for random weights, 'imagenet' for those that
      Keras downloads, or an .h5 file of the whole network's weights. With 1000
      classes the classification layer is initialized from them too.
  """

  name: str = 'ResNet50V2'
  weights: str = ''


def _small_vit() -> backbones.VisionTransformer:
  """A Vision Transformer for small images: 0.5 million weights."""
  return backbones.VisionTransformer(
    hidden_size=96,
    patch_size=8,
    pooler='gap',
    transformer=backbones.Transformer(mlp_dim=384, num_heads=3, num_layers=4),
  )


@dataclasses.dataclass
class Backbone(backbones.Backbone):
  """Model Garden's choice of backbones, and those of this project.

  Attributes:
    keras_application: a network of `tf_keras.applications`.
    custom_vit: Model Garden's Vision Transformer in any size.
  """

  keras_application: KerasApplication = dataclasses.field(
    default_factory=KerasApplication
  )
  custom_vit: backbones.VisionTransformer = dataclasses.field(
    default_factory=_small_vit
  )
