"""What varies, each as a Protocol with its contract in prose. Adapters translate; nothing here acts."""
