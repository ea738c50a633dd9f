"""What people look at: progress, the closing summary and the overlay video."""
