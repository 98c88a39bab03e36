"""Other names of the one data set, for callers that tell the tasks apart."""

from data.dataset import Dataset, open_data, open_images

ClassificationData = Dataset
open_labelled = open_data
open_unlabelled = open_images
