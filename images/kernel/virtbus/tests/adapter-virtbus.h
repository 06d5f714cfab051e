/* SPDX-License-Identifier: GPL-2.0-only */
/* The lab's virtual bus. */
#ifndef ADAPTER_VIRTBUS_H
#define ADAPTER_VIRTBUS_H

#include <linux/virtual_bus.h>

#define VBT_BUS "virtbus"
#define VBT_ALIAS VIRTBUS_MODULE_PREFIX
#define VBT_MATCH(mod, name) mod "." name
#define vbt_id virtbus_device_id
#define VBT_DEVICE_TABLE(table) MODULE_DEVICE_TABLE(virtbus, table)

struct vbt_bus_dev {
	struct virtbus_device vdev;
};

struct vbt_bus_drv {
	struct virtbus_driver vdrv;
};

#include "vbt_adapter.h"

static const struct vbt_exempt vbt_exempt[] __maybe_unused = { { } };

static inline struct device *vbt_device(struct vbt_dev *dev)
{
	return &dev->bus.vdev.dev;
}

static inline struct vbt_dev *vbt_from_device(struct device *device)
{
	return container_of(device, struct vbt_dev, bus.vdev.dev);
}

static inline void *vbt_dev_private(struct vbt_dev *dev, size_t *size)
{
	*size = sizeof(dev->bus.vdev) - sizeof(dev->bus.vdev.dev);
	return (void *)&dev->bus.vdev + sizeof(dev->bus.vdev.dev);
}

static inline const struct vbt_id *vbt_bound_id(struct vbt_dev *dev, const struct vbt_id *seen)
{
	return seen;
}

static inline void vbt_bus_release(struct virtbus_device *vdev)
{
	struct vbt_dev *dev = container_of(vdev, struct vbt_dev, bus.vdev);

	dev->release(dev);
}

static inline int vbt_dev_init(struct vbt_dev *dev, const char *mod, const char *name)
{
	dev->bus.vdev.dev.parent = dev->parent;
	dev->bus.vdev.release = dev->release ? vbt_bus_release : NULL;
	return __virtbus_dev_init(&dev->bus.vdev, name, THIS_MODULE, mod);
}

static inline int vbt_dev_add(struct vbt_dev *dev)
{
	return virtbus_dev_add(&dev->bus.vdev);
}

static inline void vbt_dev_del(struct vbt_dev *dev)
{
	virtbus_dev_del(&dev->bus.vdev);
}

static inline void vbt_dev_put(struct vbt_dev *dev)
{
	virtbus_dev_uninit(&dev->bus.vdev);
}

static inline struct device_driver *vbt_driver(struct vbt_drv *drv)
{
	return &drv->bus.vdrv.driver;
}

static inline struct vbt_drv *vbt_from_driver(struct device_driver *driver)
{
	return container_of(driver, struct vbt_drv, bus.vdrv.driver);
}

static inline int vbt_bus_probe(struct virtbus_device *vdev, const struct virtbus_device_id *id)
{
	struct vbt_drv *drv = vbt_from_driver(vdev->dev.driver);

	return drv->probe(drv, vbt_from_device(&vdev->dev), id);
}

static inline void vbt_bus_remove(struct virtbus_device *vdev)
{
	struct vbt_drv *drv = vbt_from_driver(vdev->dev.driver);

	drv->remove(drv, vbt_from_device(&vdev->dev));
}

static inline void vbt_bus_shutdown(struct virtbus_device *vdev)
{
	struct vbt_drv *drv = vbt_from_driver(vdev->dev.driver);

	drv->shutdown(drv, vbt_from_device(&vdev->dev));
}

static inline int vbt_drv_register(struct vbt_drv *drv)
{
	struct virtbus_driver *vdrv = &drv->bus.vdrv;

	vdrv->name = drv->name;
	vdrv->id_table = drv->ids;
	vdrv->probe = drv->probe ? vbt_bus_probe : NULL;
	vdrv->remove = drv->remove ? vbt_bus_remove : NULL;
	vdrv->shutdown = drv->shutdown ? vbt_bus_shutdown : NULL;
	vdrv->driver.pm = drv->suspend || drv->resume ? pm_sleep_ptr(&vbt_pm_ops) : NULL;
	return virtbus_drv_register(vdrv);
}

static inline void vbt_drv_unregister(struct vbt_drv *drv)
{
	virtbus_drv_unregister(&drv->bus.vdrv);
}

#endif /* ADAPTER_VIRTBUS_H */
