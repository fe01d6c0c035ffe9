"""Extensions of TensorFlow Model Garden that live outside its tree."""
