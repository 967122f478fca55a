"""`make bench-log`: the segment log beside what the disk and the sockets can do by themselves."""
