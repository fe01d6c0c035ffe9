# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the download against a server that fails in every way we know."""

import base64
import collections
import dataclasses
import errno
import hashlib
from http import server
import os
import re
import threading
from unittest import mock

from absl.testing import parameterized
import tensorflow as tf

from official_ext.harmonization.data import download_clickme
from official_ext.harmonization.data.records import clickme_download
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import output_folder
from official_ext.harmonization.data.records import shard_download
from testing import fixtures

_RECORDS = 3


class _Handler(server.BaseHTTPRequestHandler):
  """Serves `server.files`, each request with the next of `server.faults`."""

  protocol_version = 'HTTP/1.1'

  def log_message(self, *_):
    pass

  def _refuse(self, code):
    self.send_response(code)
    self.send_header('Content-Length', '0')
    self.end_headers()

  def do_GET(self):
    asked = self.headers.get('Range')
    self.server.requests.append((self.path, asked))
    faults = self.server.faults[self.path]
    fault = faults.pop(0) if faults else ''
    body = self.server.files.get(self.path)
    if body is None:
      return self._refuse(404)
    if fault.isdigit():
      return self._refuse(int(fault))
    start = int(asked[6:-1]) if asked and 'ignore range' not in fault else 0
    if start >= len(body):
      return self._refuse(416)
    whole, body = body, body[start:]
    if fault == 'flip':
      body = body[:20] + bytes([body[20] ^ 1]) + body[21:]
    if fault == 'lose a record':
      # Whole records, as many bytes as said: only a checksum tells.
      body = self.server.files['/other']
    self.send_response(206 if start or fault == 'wrong range' else 200)
    if start or fault == 'wrong range':
      begin = start + (7 if fault == 'wrong range' else 0)
      self.send_header(
        'Content-Range', f'bytes {begin}-{len(whole) - 1}/{len(whole)}'
      )
    if fault != 'no length':
      self.send_header('Content-Length', str(len(body)))
    if self.server.says_md5:
      digest = base64.b64encode(hashlib.md5(whole).digest()).decode()
      self.send_header('x-goog-hash', 'crc32c=AAAAAA==')
      self.send_header('x-goog-hash', f'md5={digest}')
    self.end_headers()
    if fault.endswith(('truncate', 'stall', 'no length')):
      body = body[: len(body) // 2]
    if fault != 'silence':
      self.wfile.write(body)
    self.wfile.flush()
    if fault in ('stall', 'silence'):
      self.server.released.wait(10)
    if fault:
      self.close_connection = True


class DownloadTest(tf.test.TestCase, parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.shards = {}
    folder = tf.compat.v1.test.get_temp_dir()
    for split, i in (('train', 0), ('train', 1), ('train', 2), ('val', 0)):
      path = fixtures.write_numbered(folder, f'{split}{i}', _RECORDS + i)
      with open(path, 'rb') as f:
        cls.shards[f'/{split}/{split}-{i}.tfrecords'] = f.read()

  def setUp(self):
    super().setUp()
    self.output = self.get_temp_dir()
    self.server = server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
    self.server.daemon_threads = True
    self.server.files = dict(self.shards)
    self.server.faults = collections.defaultdict(list)
    self.server.requests = []
    self.server.says_md5 = False
    self.server.released = threading.Event()
    thread = threading.Thread(target=self.server.serve_forever, args=[0.01])
    thread.start()
    self.addCleanup(thread.join)
    self.addCleanup(self.server.server_close)
    self.addCleanup(self.server.shutdown)
    self.addCleanup(self.server.released.set)
    self.enter_context(mock.patch.object(shard_download, '_DELAY', 0.001))
    self.url = f'http://127.0.0.1:{self.server.server_port}'

  def _download(self, numbers=None, **options):
    clickme_download.download(
      self.output,
      numbers or {'train': [0, 1, 2], 'val': [0]},
      base_url=self.url,
      **{'timeout': 0.5, **options},
    )

  def _one(self, *faults, **options):
    """Downloads one shard, with faults in the way."""
    self.server.faults['/train/train-1.tfrecords'] = list(faults)
    self._download({'train': [1]}, **options)

  def _shard(self, progress):
    """Returns the download of one shard, which calls `progress`."""
    name = 'train/train-1.tfrecords'
    os.makedirs(os.path.dirname(self._path(name)), exist_ok=True)
    return shard_download.ShardDownload(
      f'{self.url}/{name}', self._path(name), 0.5, progress, threading.Event()
    )

  def _path(self, name):
    return os.path.join(self.output, *name.strip('/').split('/'))

  def _assert_whole(self, *names):
    for name in names:
      with open(self._path(name), 'rb') as f:
        self.assertEqual(f.read(), self.shards[name], name)

  def _files(self, split='train'):
    return sorted(os.listdir(os.path.join(self.output, split)))

  def test_brings_every_shard_and_lists_it(self):
    self._download()
    self._assert_whole(*self.shards)
    for split, count in (('train', 3), ('val', 1)):
      content = manifest.read(os.path.join(self.output, split))
      self.assertEqual(content['source'], f'{self.url}/{split}')
      self.assertLen(content['shards'], count)
      for shard in content['shards']:
        body = self.shards[f'/{split}/{shard["file"]}']
        number = int(re.findall(r'\d+', shard['file'])[0])
        self.assertEqual(
          shard,
          {
            'file': shard['file'],
            'bytes': len(body),
            'records': _RECORDS + number,
            'sha256': hashlib.sha256(body).hexdigest(),
          },
        )

  @parameterized.parameters(
    (['500', '503', '429'],),
    (['truncate'] * 4,),
    (['stall', 'silence'],),
    (['flip'],),
    (['flip', 'truncate', '500', 'stall'],),
    (['wrong range'],),
    (['truncate', 'wrong range'],),
    (['truncate', 'ignore range, truncate', 'truncate', 'flip', 'flip'],),
  )
  def test_gets_there_in_spite_of(self, faults):
    self._one(*faults)
    self._assert_whole('/train/train-1.tfrecords')
    self.assertEqual(self._files(), ['manifest.json', 'train-1.tfrecords'])
    self.assertLen(self.server.requests, len(faults) + 1)

  def test_goes_on_where_the_connection_broke(self):
    self._one('truncate', 'truncate')
    size = len(self.shards['/train/train-1.tfrecords'])
    first = size // 2
    second = first + (size - first) // 2
    self.assertEqual(
      [r for _, r in self.server.requests],
      [None, f'bytes={first}-', f'bytes={second}-'],
    )

  def test_a_server_without_ranges_starts_anew(self):
    self._one('truncate', 'ignore range')
    self._assert_whole('/train/train-1.tfrecords')
    self.assertLen(self.server.requests, 2)

  def test_a_server_that_sends_a_little_each_time_gets_there(self):
    self._one(*['truncate'] * 8, retries=0, timeout=5.0)
    self._assert_whole('/train/train-1.tfrecords')

  def test_another_run_goes_on(self):
    with self.assertRaisesRegex(shard_download.DownloadError, '500'):
      self._one('truncate', '500', retries=0)
    self.assertEqual(self._files(), ['train-1.tfrecords.partial'])
    self.server.requests.clear()
    self._one()
    self._assert_whole('/train/train-1.tfrecords')
    self.assertRegex(self.server.requests[0][1], r'bytes=[1-9]\d*-')

  @parameterized.parameters(
    (['404'], '404', 1),
    (['403'], '403', 1),
    (['500'] * 9, '500', 3),
    (['silence'] * 9, 'timed out', 3),
    (['flip'] * 9, 'damaged.* record 0', 3),
    (['no length'], 'length', 1),
  )
  def test_says_what_it_could_not_get(self, faults, reason, requests):
    with self.assertRaisesRegex(
      shard_download.DownloadError,
      rf'/train/train-1.tfrecords: .*{reason}',
    ):
      self._one(*faults, retries=2)
    self.assertNotIn('train-1.tfrecords', self._files())
    self.assertLen(self.server.requests, requests)

  def test_a_dead_server_is_named(self):
    with mock.patch.object(self, 'url', 'http://127.0.0.1:9'):
      with self.assertRaisesRegex(shard_download.DownloadError, 'refused'):
        self._download({'val': [0]}, retries=1)

  def test_what_can_be_had_comes_without_what_cannot(self):
    del self.server.files['/train/train-1.tfrecords']
    with self.assertRaisesRegex(shard_download.DownloadError, 'train-1.*404'):
      self._download()
    self._assert_whole(
      '/train/train-0.tfrecords',
      '/train/train-2.tfrecords',
      '/val/val-0.tfrecords',
    )
    self.assertEqual(
      [s['file'] for s in manifest.read(self._path('train'))['shards']],
      ['train-0.tfrecords', 'train-2.tfrecords'],
    )

  def test_gives_up_when_nothing_comes(self):
    self.server.files = {}
    with self.assertRaisesRegex(shard_download.DownloadError, 'and 3 more'):
      self._download({'train': list(range(50))}, workers=1)
    self.assertLess(len(self.server.requests), 40)

  def test_a_second_run_asks_for_nothing(self):
    self._download()
    self.server.requests.clear()
    self._download()
    self.assertEmpty(self.server.requests)
    # Nor one whose manifest was never written.
    os.remove(os.path.join(self.output, 'val', manifest.FILE))
    self._download()
    self.assertEmpty(self.server.requests)
    self.assertEqual(self._files('val'), ['manifest.json', 'val-0.tfrecords'])

  def test_a_subset_leaves_the_rest_in_the_manifest(self):
    self._download({'train': [2]})
    self._download({'train': [0]})
    self.assertEqual(
      [s['file'] for s in manifest.read(self._path('train'))['shards']],
      ['train-0.tfrecords', 'train-2.tfrecords'],
    )

  @parameterized.parameters('cut', 'flip', 'longer', 'other')
  def test_what_was_damaged_since_comes_again(self, how):
    self._download({'train': [1]})
    path = self._path('/train/train-1.tfrecords')
    body = self.shards['/train/train-1.tfrecords']
    with open(path, 'wb') as f:
      f.write(
        {
          'cut': body[:-9],
          'longer': body + body[:40],
          'flip': body[:70] + b'\0' + body[71:],
          # Whole, but not the one in the manifest.
          'other': self.shards['/val/val-0.tfrecords'],
        }[how]
      )
    self._download({'train': [1]})
    self._assert_whole('/train/train-1.tfrecords')

  def test_whole_records_that_are_not_the_servers_are_told_by_its_md5(self):
    self.server.says_md5 = True
    self.server.files['/other'] = self.shards['/val/val-0.tfrecords']
    with self.assertRaisesRegex(shard_download.DownloadError, 'MD5'):
      self._one('lose a record', retries=0)
    self._one('lose a record')
    self._assert_whole('/train/train-1.tfrecords')

  def test_a_full_disk_is_no_matter_of_retries(self):
    full = OSError(errno.ENOSPC, 'No space left on device')
    shard = self._shard(mock.Mock(side_effect=full))
    with self.assertRaisesRegex(shard_download.DownloadError, 'No space left'):
      shard.fetch(None, 3)
    self.assertLen(self.server.requests, 1)

  def test_progress_ends_at_the_size(self):
    seen = collections.Counter()

    def add(size, total):
      seen.update({'size': size, 'total': total})

    faults = ['truncate', 'ignore range, truncate', 'truncate', 'flip']
    self.server.faults['/train/train-1.tfrecords'] = faults
    self._shard(add).fetch(None, 5)
    size = len(self.shards['/train/train-1.tfrecords'])
    self.assertEqual(seen, {'size': size, 'total': size})

  def test_shard_numbers(self):
    self.assertLen(clickme_download.shard_numbers('train', None), 319)
    self.assertEqual(clickme_download.shard_numbers('val', None)[-1], 17)
    self.assertEqual(
      clickme_download.shard_numbers('train', ['3-5', '4', '318']),
      [3, 4, 5, 318],
    )
    for wrong in ('18', '5-3', '-1', 'x', '', '0-18'):
      with self.assertRaisesRegex(ValueError, r'val has shards 0\.\.17'):
        clickme_download.shard_numbers('val', [wrong])

  def test_the_command(self):
    options = download_clickme.Options(
      output_dir=self.output,
      base_url=self.url,
      shards=('0',),
      retries=0,
      timeout=5.0,
      workers=2,
    )
    download_clickme.main(options)
    self._assert_whole('/train/train-0.tfrecords', '/val/val-0.tfrecords')
    for changed, error, words in (
      ({'shards': ('7',)}, shard_download.DownloadError, '-7.*404'),
      ({'base_url': 'file:///etc'}, ValueError, '--base_url'),
      (
        {'output_dir': 'gs://bucket/clickme'},
        ValueError,
        'gs://bucket.*a local folder',
      ),
    ):
      with self.assertRaisesRegex(error, words):
        download_clickme.main(dataclasses.replace(options, **changed))
    self.assertFalse(os.path.exists('gs:'))
    with output_folder.alone(self.output):
      with self.assertRaisesRegex(ValueError, self.output):
        download_clickme.main(options)


if __name__ == '__main__':
  tf.test.main()
