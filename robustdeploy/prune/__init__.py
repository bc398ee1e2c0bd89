"""Channel groups, masks, budgets and compaction; one file per pruner."""
