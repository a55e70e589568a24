"""The paper's ablations on the embedded model: one head against two, and what each training scheme keeps."""
