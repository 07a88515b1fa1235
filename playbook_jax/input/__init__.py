"""The input pipeline: arrays in memory, tf.data, TFRecords."""
