"""The segmentation networks: the only package that imports sam2 and segment_anything."""
