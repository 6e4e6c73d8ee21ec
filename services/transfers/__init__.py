"""What a worker brings onto its disk before an attempt, and takes to where others can read it after one."""
