"""The embedded detector as an mmdet configuration: RTMDet-Ins, 0.83 M parameters, 32x32 images enlarged to 128x128.

Plain BatchNorm, no pretrained backbone: the SyncBN, frozen layers and downloads of stock configurations are left out.
"""

default_scope = "mmdet"
model = {
    "type": "RTMDet",
    "data_preprocessor": {
        "type": "DetDataPreprocessor",
        "mean": [190.0, 190.0, 190.0],
        "std": [70.0, 70.0, 70.0],
        "bgr_to_rgb": False,
        "pad_size_divisor": 32,
    },
    "backbone": {
        "type": "CSPNeXt",
        "arch": "P5",
        "expand_ratio": 0.5,
        "deepen_factor": 0.167,
        "widen_factor": 0.125,
        "channel_attention": True,
        "norm_cfg": {"type": "BN"},
        "act_cfg": {"type": "SiLU", "inplace": True},
    },
    "neck": {
        "type": "CSPNeXtPAFPN",
        "in_channels": [32, 64, 128],
        "out_channels": 48,
        "num_csp_blocks": 1,
        "expand_ratio": 0.5,
        "norm_cfg": {"type": "BN"},
        "act_cfg": {"type": "SiLU", "inplace": True},
    },
    "bbox_head": {
        "type": "RTMDetInsSepBNHead",
        "num_classes": 4,
        "in_channels": 48,
        "feat_channels": 48,
        "stacked_convs": 2,
        "share_conv": True,
        "pred_kernel_size": 1,
        "act_cfg": {"type": "SiLU", "inplace": True},
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "anchor_generator": {"type": "MlvlPointGenerator", "offset": 0, "strides": [8, 16, 32]},
        "bbox_coder": {"type": "DistancePointBBoxCoder"},
        "loss_cls": {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0, "loss_weight": 1.0},
        "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
        "loss_mask": {"type": "DiceLoss", "loss_weight": 2.0, "eps": 5e-06, "reduction": "mean"},
    },
    "train_cfg": {
        "assigner": {"type": "DynamicSoftLabelAssigner", "topk": 13},
        "allowed_border": -1,
        "pos_weight": -1,
        "debug": False,
    },
    "test_cfg": {
        "nms_pre": 100,
        "min_bbox_size": 0,
        "score_thr": 0.05,
        "nms": {"type": "nms", "iou_threshold": 0.5, "class_agnostic": True},
        "max_per_img": 20,
        "mask_thr_binary": 0.5,
    },
}
test_pipeline = [
    {"type": "mmdet.LoadImageFromNDArray"},
    {"type": "mmdet.Resize", "scale": (128, 128), "keep_ratio": True},
    {"type": "mmdet.PackDetInputs", "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")},
]
