"""The nerfstudio method `t3dgs-splatfacto`; the only importer of nerfstudio."""
