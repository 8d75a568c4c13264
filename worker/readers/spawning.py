"""Processes that start from a fresh interpreter and do not import the parent's main module.

The parent has threads of torch, so it must not fork. The spawn of the standard library runs the parent's script again
in each child: for `nightowl` that is the whole command line, and without a `__main__` guard a script runs again.
"""

from __future__ import annotations

import io
import os
from multiprocessing import context, popen_spawn_posix, reduction, resource_tracker, spawn, util
from typing import Any


class _Popen(popen_spawn_posix.Popen):
    def _launch(self, process_obj: Any) -> None:
        """As in the standard library (3.11 to 3.14), but the main module stays at home."""
        tracker = resource_tracker.getfd()
        self._fds: list[Any] = [*getattr(self, "_fds", []), tracker]
        parcel = self._parcel(process_obj)
        parent_r, child_w = os.pipe()
        child_r, parent_w = os.pipe()
        self.finalizer = util.Finalize(self, _close_all, [(parent_r, parent_w)])
        try:
            command = spawn.get_command_line(tracker_fd=tracker, pipe_handle=child_r)
            self._fds += [child_r, child_w]
            self.pid = util.spawnv_passfds(os.fsencode(spawn.get_executable()), command, self._fds)
            self.sentinel = parent_r
            with open(parent_w, "wb", closefd=False) as pipe:
                pipe.write(parcel)
        finally:
            _close_all((child_r, child_w))

    def _parcel(self, process_obj: Any) -> bytes:
        data = spawn.get_preparation_data(process_obj._name)
        for key in ("init_main_from_name", "init_main_from_path"):
            data.pop(key, None)
        buffer = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(data, buffer)
            reduction.dump(process_obj, buffer)
        finally:
            context.set_spawning_popen(None)
        return buffer.getvalue()


class _Process(context.SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        return _Popen(process_obj)


class SpawnContext(context.SpawnContext):
    """For pebble's ProcessPool(context=...)."""

    Process = _Process


def _close_all(descriptors: tuple[int, ...]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
