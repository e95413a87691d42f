"""Many runs that do not need each other, done here one by one, in processes of this machine, by Ray or by Slurm."""
