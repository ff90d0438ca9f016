"""What a zygote does to its own memory."""

import ctypes
import mmap
from pathlib import Path

from qonduit_worker.zygote import kernel

_HUGE_PAGE = 2 * 1024 * 1024


def test_a_huge_page_is_dense_once_most_of_it_is_written() -> None:
    with mmap.mmap(-1, 2 * _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)  # Else the first byte may bring all of it.
        view = ctypes.c_char.from_buffer(memory)
        address = -(-ctypes.addressof(view) // _HUGE_PAGE) * _HUGE_PAGE
        begin = address - ctypes.addressof(view)
        del view
        with Path("/proc/self/pagemap").open("rb", buffering=0) as pages:
            assert not kernel._is_dense(pages, address)
            for share, dense in ((0.5, False), (1, True)):
                for at in range(begin, begin + int(share * _HUGE_PAGE), mmap.PAGESIZE):
                    memory[at] = 1
                assert kernel._is_dense(pages, address) is dense


def test_tidying_keeps_what_is_in_memory() -> None:
    numbers = bytearray(range(256)) * (4 * _HUGE_PAGE // 256)
    kernel.tidy_memory()
    assert numbers == bytearray(range(256)) * (4 * _HUGE_PAGE // 256)
