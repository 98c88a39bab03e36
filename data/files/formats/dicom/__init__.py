"""Series of DICOM files as volumes: which files, their geometry, their voxels."""
