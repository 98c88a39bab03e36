"""Training and evaluation of a given model on given batches; knows neither `data` nor `models`."""
