# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Address and number of shards of the ClickMe release."""

BASE_URL = (
  'https://storage.googleapis.com/serrelab/prj_harmonization/dataset/click-me'
)
# By split. The loaders of the released package read one shard less of each.
SHARDS = {'train': 319, 'val': 18}
