"""The second paper: outlier features, privileged directions, encoded concepts and effective robustness of CLIPs."""
