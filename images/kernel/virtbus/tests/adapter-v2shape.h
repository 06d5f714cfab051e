/* SPDX-License-Identifier: GPL-2.0-only */
/* The bus of the shape that was proposed as v2: an example of an adapter for another API. */
#ifndef ADAPTER_V2SHAPE_H
#define ADAPTER_V2SHAPE_H

#include <linux/string.h>

#include "v2shape/vbt_v2shape.h"

#define VBT_BUS "v2shape"
#define VBT_ALIAS "v2shape:"
/* Modules have no part in the name. */
#define VBT_MATCH(mod, name) name
#define vbt_id v2_id
#define VBT_CREATOR_WAITS

struct vbt_bus_dev {
	struct v2_device *vdev;
};

struct vbt_bus_drv {
	struct v2_driver vdrv;
	char name[64];
};

#include "vbt_adapter.h"

static const struct vbt_exempt vbt_exempt[] __maybe_unused = {
	{ "R11", VBT_SKIP, "nobody but the bus sees the release" },
	{ "R14", VBT_CANNOT, "the bus allocates the device, with a pointer to the creator's data" },
	{ "U04", VBT_CANNOT, "what was allocated can only be registered" },
	{ }
};

static inline struct device *vbt_device(struct vbt_dev *dev)
{
	return &dev->bus.vdev->dev;
}

static inline struct vbt_dev *vbt_from_device(struct device *device)
{
	return container_of(device, struct v2_device, dev)->data;
}

static inline void *vbt_dev_private(struct vbt_dev *dev, size_t *size)
{
	*size = offsetof(struct v2_device, dev);
	return dev->bus.vdev;
}

static inline const struct vbt_id *vbt_bound_id(struct vbt_dev *dev, const struct vbt_id *seen)
{
	return dev->bus.vdev->matched;
}

static inline int vbt_dev_init(struct vbt_dev *dev, const char *mod, const char *name)
{
	dev->bus.vdev = v2_device_alloc(name, dev);
	if (!dev->bus.vdev)
		return -ENOMEM;
	dev->bus.vdev->dev.parent = dev->parent;
	return 0;
}

static inline int vbt_dev_add(struct vbt_dev *dev)
{
	return v2_device_register(dev->bus.vdev);
}

static inline void vbt_dev_del(struct vbt_dev *dev)
{
	v2_device_unregister(dev->bus.vdev);
}

/* The creator's data is not the device, so it goes at once. */
static inline void vbt_dev_put(struct vbt_dev *dev)
{
	dev->release(dev);
}

static inline struct device_driver *vbt_driver(struct vbt_drv *drv)
{
	return &drv->bus.vdrv.driver;
}

static inline struct vbt_drv *vbt_from_driver(struct device_driver *driver)
{
	return container_of(driver, struct vbt_drv, bus.vdrv.driver);
}

static inline int vbt_bus_probe(struct v2_device *vdev)
{
	struct vbt_drv *drv = vbt_from_driver(vdev->dev.driver);

	return drv->probe(drv, vdev->data, vdev->matched);
}

static inline int vbt_bus_remove(struct v2_device *vdev)
{
	struct vbt_drv *drv = vbt_from_driver(vdev->dev.driver);

	drv->remove(drv, vdev->data);
	return 0;
}

static inline void vbt_bus_shutdown(struct v2_device *vdev)
{
	struct vbt_drv *drv = vbt_from_driver(vdev->dev.driver);

	drv->shutdown(drv, vdev->data);
}

static inline int vbt_bus_suspend(struct v2_device *vdev, pm_message_t state)
{
	struct vbt_drv *drv = vbt_from_driver(vdev->dev.driver);

	drv->suspend(drv, vdev->data);
	return 0;
}

static inline int vbt_bus_resume(struct v2_device *vdev)
{
	struct vbt_drv *drv = vbt_from_driver(vdev->dev.driver);

	drv->resume(drv, vdev->data);
	return 0;
}

static inline int vbt_drv_register(struct vbt_drv *drv)
{
	struct v2_driver *vdrv = &drv->bus.vdrv;

	snprintf(drv->bus.name, sizeof(drv->bus.name), "%s.%s", VBT_MOD, drv->name ?: "");
	vdrv->driver.name = drv->bus.name;
	vdrv->id_table = drv->ids;
	vdrv->probe = drv->probe ? vbt_bus_probe : NULL;
	vdrv->remove = drv->remove ? vbt_bus_remove : NULL;
	vdrv->shutdown = drv->shutdown ? vbt_bus_shutdown : NULL;
	vdrv->suspend = drv->suspend ? vbt_bus_suspend : NULL;
	vdrv->resume = drv->resume ? vbt_bus_resume : NULL;
	return v2_driver_register(vdrv);
}

static inline void vbt_drv_unregister(struct vbt_drv *drv)
{
	v2_driver_unregister(&drv->bus.vdrv);
}

#endif /* ADAPTER_V2SHAPE_H */
