"""A series: several ordinary runs in one folder, made here or on a cluster; what is done is skipped."""
