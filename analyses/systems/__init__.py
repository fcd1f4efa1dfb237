"""Every system on MNIST, side by side; and the VAE on it by itself."""
