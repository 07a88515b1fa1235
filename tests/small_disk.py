"""A disk that is soon full."""

import shutil
import subprocess

import pytest


class SmallDisk:
    """A file system in memory, of which only root can have one."""

    def __init__(self, place):
        self.place = place

    def mounted(self, kilobytes):
        """Returns where it is, of that size."""
        self.place.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(self.place)]
        if not shutil.which("mount") or subprocess.run(["mount", *options]).returncode:
            self.place.rmdir()
            pytest.skip("this process may not mount a file system")
        return self.place

    def grow(self, kilobytes):
        size = f"remount,size={kilobytes}k"
        subprocess.run(["mount", "-o", size, str(self.place)], check=True)


@pytest.fixture
def small_disk(tmp_path):
    disk = SmallDisk(tmp_path / "disk")
    yield disk
    if disk.place.exists():
        subprocess.run(["umount", "-l", str(disk.place)], check=True)
