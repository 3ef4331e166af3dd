"""`composer bench`: a blueprint's network beside another implementation of it.

    Case -> rival (who else has the network) -> two networks of equal weights -> times, differences, peaks

A case is plain values, so that any process can make it again: times are taken with both networks in one process, call
by call in turn, and memory with each in a process of its own, where the other has left nothing behind.
"""

from composer.bench.case import Case as Case
