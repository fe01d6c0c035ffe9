# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The registered experiments: `harmonized_<stock experiment>`.

Each is the stock experiment of that name with harmonization enabled and its own
recipe kept, except `harmonized_resnet_imagenet`, which has the paper's recipe.
`efficientnet_imagenet`, which Model Garden does not register, is defined here
too; `maxvit_imagenet` is registered by importing `registry_imports`.
The user sets `task.mapped_data.input_path` and
`task.mapped_validation_data.input_path`.
"""

import functools

from official.core import config_definitions as cfg
from official.core import exp_factory
from official.modeling import optimization
from official.vision.configs import backbones
from official.vision.configs import common
from official.vision.configs import image_classification as stock

from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)

_STOCK = (
  'resnet_rs_imagenet',
  'mobilenet_imagenet',
  'vit_imagenet_pretrain',
  'vit_imagenet_finetune',
  'deit_imagenet_pretrain',
  'maxvit_imagenet',
  'efficientnet_imagenet',
)
# Names of the experiments below, which apply gin's settings themselves, so that
# they also work under Model Garden's own driver.
HARMONIZED = (
  'harmonized_resnet_imagenet',
  *(f'harmonized_{name}' for name in _STOCK),
)


def _enable(config: cfg.ExperimentConfig) -> cfg.ExperimentConfig:
  """Enables harmonization with the settings of the authors' trainer.

  A fifth of each batch has maps, and the weight is the smallest that the
  authors tried; their trainer divides the loss by the whole batch, too.
  """
  config = exp_cfg.convert(config)
  config.task.override(
    {
      'harmonization': {
        'enabled': True,
        'weight': 10.0,
        'mapped_fraction': 0.2,
      }
    }
  )
  return config


@exp_factory.register_config_factory('efficientnet_imagenet')
def efficientnet_imagenet() -> cfg.ExperimentConfig:
  """EfficientNet-B0 on ImageNet, on the stock task.

  The recipe of Tan & Le ("EfficientNet", ICML 2019, section 5.2), built from
  Model Garden's `mobilenet_imagenet`: RMSProp with decay and momentum 0.9,
  weight decay 1e-5, batch norm momentum 0.99, learning rate 0.256 (batch 4096)
  times 0.97 every 2.4 epochs, SiLU, AutoAugment, survival probability 0.8,
  dropout 0.2. Label smoothing, 350 epochs, the moving average of the weights
  and RMSProp's epsilon follow the authors' TPU code.

  Returns:
    The experiment, with exactly the stock task.
  """
  config = stock.image_classification_imagenet_mobilenet()
  epoch = (
    stock.IMAGENET_TRAIN_EXAMPLES // config.task.train_data.global_batch_size
  )
  config.task.model.override(
    {
      'backbone': backbones.Backbone(
        type='efficientnet',
        efficientnet=backbones.EfficientNet(
          model_id='b0', se_ratio=0.25, stochastic_depth_drop_rate=0.2
        ),
      ),
      'norm_activation': {
        'activation': 'swish',
        'norm_momentum': 0.99,
      },
    }
  )
  config.task.train_data.aug_type = common.Augmentation(type='autoaug')
  config.trainer.override(
    {
      'train_steps': 350 * epoch,
      'optimizer_config': {
        'optimizer': {'rmsprop': {'epsilon': 0.001}},
        'learning_rate': {
          'exponential': {
            'initial_learning_rate': 0.256,
            'decay_steps': int(2.4 * epoch),
            'decay_rate': 0.97,
          },
        },
        'ema': {'average_decay': 0.9999, 'trainable_weights_only': False},
      },
    }
  )
  return config


@exp_factory.register_config_factory('harmonized_resnet_imagenet')
def harmonized_resnet_imagenet() -> cfg.ExperimentConfig:
  """ResNet-50 on ImageNet and ClickMe with the paper's training recipe.

  Batch 512, SGD with momentum 0.9, learning rate 0.3, label smoothing, flips
  and mixup; 5 epochs of warm-up, then a cosine over 90 epochs with steps at 30,
  50 and 80 (Fel et al., NeurIPS 2022). The factor of 0.1 per step and the
  weight decay are those of the authors' trainer. The paper does not give
  mixup's alpha; 0.2 is common for ImageNet.
  """
  batch_size = 512
  epoch = stock.IMAGENET_TRAIN_EXAMPLES // batch_size
  mixup = dict(mixup_alpha=0.2, cutmix_alpha=0.0, label_smoothing=0.1)
  config = _enable(stock.image_classification_imagenet())
  config.task.override(
    {
      'losses': {
        'one_hot': False,
        'soft_labels': True,
        'l2_weight_decay': 1e-5,
      },
      'train_data': {
        'global_batch_size': batch_size,
        'mixup_and_cutmix': mixup,
      },
      'mapped_data': {
        'mixup_and_cutmix': mixup,
      },
      'validation_data': {
        'global_batch_size': batch_size,
      },
    }
  )
  config.trainer.override(
    {
      'train_steps': 90 * epoch,
      'steps_per_loop': epoch,
      'summary_interval': epoch,
      'checkpoint_interval': epoch,
      'validation_interval': epoch,
      'validation_steps': -1,
    }
  )
  config.trainer.optimizer_config = optimization.OptimizationConfig(
    {
      'optimizer': {
        'type': 'sgd',
        'sgd': {'momentum': 0.9},
      },
      'learning_rate': {
        'type': 'step_cosine_with_offset',
        'step_cosine_with_offset': {
          # Model Garden's schedule is NaN after its last boundary, so the
          # last boundary comes after the last step.
          'boundaries': [k * epoch for k in (0, 30, 50, 80, 91)],
          'values': [0.3, 0.03, 0.003, 0.0003, 0.0],
        },
      },
      'warmup': {
        'type': 'linear',
        'linear': {'warmup_steps': 5 * epoch, 'warmup_learning_rate': 0.0},
      },
    }
  )
  return exp_cfg.harmonize(config)  # Last, so that gin overrides the recipe.


def _harmonized(stock_name: str) -> cfg.ExperimentConfig:
  """Returns a stock experiment with harmonization enabled."""
  return exp_cfg.harmonize(_enable(exp_factory.get_exp_config(stock_name)))


for _name in _STOCK:
  exp_factory.register_config_factory(f'harmonized_{_name}')(
    functools.partial(_harmonized, _name)
  )
