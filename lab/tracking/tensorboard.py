"""A run as a TensorBoard event file in its own folder: ``tensorboard --logdir outputs``.

The run's name there is its folder's below ``--logdir``. The file is written with TensorBoard's own
records, without TensorFlow or torch; its figures have the 24 bits of a float32.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lab.config.keys import Config
from lab.records.origin import Origin
from lab.tracking.logged import figures, parameters, summary_figures

NAME = "events.out.tfevents"  # by which TensorBoard knows a file
TEXTS = ("reload/reason", "remedy/name")


class TensorboardView:
    """One event file, written anew by each attempt at the run.

    A resumed run empties the file of the one that was cut off. A TensorBoard that has read it
    forgets its figures at the new one's first event, so each row is shown once.

    Raises:
        ImportError: TensorBoard is not installed.
        OSError: the file cannot be written.
    """

    def __init__(self, config: Config, run_dir: Path, origin: Origin, at: float) -> None:
        self._run_dir, self._last_step = run_dir, 0
        self._event = _tb().event.Event
        for earlier in run_dir.glob(f"{NAME}.*"):
            if not earlier.is_symlink():
                os.truncate(earlier, 0)  # one that is gone stops a TensorBoard that has read it
        path = run_dir / f"{NAME}.{time.time():.6f}.{origin.run_id}"
        self._writer = _tb().record.RecordWriter(path.open("wb"))
        self._write(0, at, file_version="brain.Event:2")
        start = _tb().event.SessionLog(status=_tb().event.SessionLog.START)
        self._write(0, at, session_log=start)
        self._write_values(0, at, _session_start(config, at))
        self.flush()

    def add(self, row: Mapping[str, Any], at: float) -> None:
        self._last_step = max(self._last_step, row["step"])  # a reload comes after the next row
        values = [_scalar(key, value) for key, value in figures(row).items()]
        values += [_text(key, row[key]) for key in TEXTS if row.get(key)]
        self._write_values(row["step"], at, *values)

    def describe(self, version: Mapping[str, Any]) -> None:
        """Nothing: what TensorBoard compares runs by is fixed at their start."""

    def flush(self) -> None:
        self._writer.flush()

    def finish(self, summary: Mapping[str, Any], at: float) -> None:
        scalars = [_scalar(key, value) for key, value in summary_figures(summary).items()]
        pictures = []
        with suppress(OSError, struct.error):  # no picture yet
            pictures = [_picture("memory", (self._run_dir / "memory.png").read_bytes())]
        end = _session_end(at, completed=summary.get("state") == "completed")
        self._write_values(self._last_step, at, *scalars, *pictures, end)
        self._writer.close()

    def _write_values(self, step: int, at: float, *values: Any) -> None:
        self._write(step, at, summary=_tb().summary.Summary(value=values))

    def _write(self, step: int, at: float, **what: Any) -> None:
        event = self._event(wall_time=at, step=step, **what)
        self._writer.write(event.SerializeToString())


@cache
def _tb() -> Any:
    """TensorBoard's modules of messages, whose names no type checker sees."""
    from tensorboard.compat.proto import (
        event_pb2,
        summary_pb2,
        tensor_pb2,
        tensor_shape_pb2,
        types_pb2,
    )
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
    from tensorboard.plugins.hparams import metadata as about_hparams
    from tensorboard.plugins.text import metadata as text
    from tensorboard.summary.writer import record_writer

    return SimpleNamespace(
        event=event_pb2,
        summary=summary_pb2,
        tensor=tensor_pb2,
        shape=tensor_shape_pb2,
        types=types_pb2,
        api=api_pb2,
        hparams=plugin_data_pb2,
        about_hparams=about_hparams,
        text=text,
        record=record_writer,
    )


def _scalar(key: str, value: float) -> Any:
    return _tb().summary.Summary.Value(tag=key, simple_value=value)


def _text(key: str, text: str) -> Any:
    shape = _tb().shape.TensorShapeProto(dim=[_tb().shape.TensorShapeProto.Dim(size=1)])
    tensor = _tb().tensor.TensorProto(
        dtype=_tb().types.DT_STRING, string_val=[text.encode()], tensor_shape=shape
    )
    about = _tb().text.create_summary_metadata("", "")
    return _tb().summary.Summary.Value(tag=key, tensor=tensor, metadata=about)


def _picture(key: str, png: bytes) -> Any:
    """A PNG, whose size stands in its first chunk."""
    width, height = struct.unpack(">II", png[16:24])
    image = _tb().summary.Summary.Image(
        height=height, width=width, colorspace=4, encoded_image_string=png
    )
    return _tb().summary.Summary.Value(tag=key, image=image)


def _session_start(config: Config, at: float) -> Any:
    """The run's settings, for the tab of hyperparameters."""
    start = _tb().hparams.SessionStartInfo(start_time_secs=at)
    for key, value in parameters(config).items():
        kind = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
        setattr(start.hparams[key], kind, value)
    data = _tb().hparams.HParamsPluginData(session_start_info=start)
    return _hparams(_tb().about_hparams.SESSION_START_INFO_TAG, data)


def _session_end(at: float, *, completed: bool) -> Any:
    status = _tb().api.STATUS_SUCCESS if completed else _tb().api.STATUS_FAILURE
    end = _tb().hparams.SessionEndInfo(status=status, end_time_secs=at)
    data = _tb().hparams.HParamsPluginData(session_end_info=end)
    return _hparams(_tb().about_hparams.SESSION_END_INFO_TAG, data)


def _hparams(tag: str, data: Any) -> Any:
    about = _tb().about_hparams.create_summary_metadata(data)
    return _tb().summary.Summary.Value(
        tag=tag, metadata=about, tensor=_tb().about_hparams.NULL_TENSOR
    )
