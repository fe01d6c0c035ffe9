r"""Converts an exported run to TFLite by the host, our experiments registered.

  python -m official_ext.harmonization.export_saved_model \
      --experiment=harmonized_resnet_imagenet \
      --config_file=runs/digits/harmonized/params.yaml \
      --checkpoint_path=runs/digits/harmonized --export_dir=exported \
      --input_image_size=64,64 --input_type=tflite --batch_size=1
  python -m official_ext.harmonization.export_tflite \
      --experiment=harmonized_resnet_imagenet \
      --config_file=runs/digits/harmonized/params.yaml \
      --saved_model_dir=exported/saved_model --tflite_path=exported/model.tflite

Integer quantization (--quant_type=int8...) is calibrated on task.train_data,
the images without maps, by the stock task.
"""

from official.vision.serving import export_tflite
from official_ext.harmonization import (
    registry_imports)  # pylint: disable=unused-import
from official_ext.harmonization import cli


def run():
  """The console command."""
  cli.run(export_tflite.main, __name__, flags_of=(export_tflite.__name__,),
          resumes=False)


if __name__ == '__main__':
  run()
