/* SPDX-License-Identifier: GPL-2.0-only */
/* The auxiliary bus, as a control: a mature bus of the same kind. */
#ifndef ADAPTER_AUXILIARY_H
#define ADAPTER_AUXILIARY_H

#include <linux/auxiliary_bus.h>
#include <linux/idr.h>
#include <linux/string.h>

#define VBT_BUS "auxiliary"
#define VBT_ALIAS AUXILIARY_MODULE_PREFIX
#define VBT_MATCH(mod, name) mod "." name
#define vbt_id auxiliary_device_id
#define VBT_DEVICE_TABLE(table) MODULE_DEVICE_TABLE(auxiliary, table)
/* Nothing keeps the creator's code while a reference is held. */
#define VBT_CREATOR_WAITS

struct vbt_bus_dev {
	struct auxiliary_device auxdev;
};

struct vbt_bus_drv {
	struct auxiliary_driver auxdrv;
};

#include "vbt_adapter.h"

static const struct vbt_exempt vbt_exempt[] __maybe_unused = {
	{ "R09", VBT_SKIP, "numbers are the creator's on this bus, and so is when one is free" },
	{ "R14.release", VBT_SKIP, "the bus does not look, and the driver core warns later" },
	{ "R15", VBT_SKIP, "the creator keeps the name until the device is added" },
	{ "U07", VBT_SKIP, "a name that is too long for a table is taken, and never matches" },
	{ "U08", VBT_SKIP, "a/b is taken and renamed a!b, which never matches" },
	{ "U09", VBT_SKIP, "refused with WARN_ON(), which would be this run's failure" },
	{ }
};

/* A creator's own numbers: those of this module, and those of the one that it plays. */
static DEFINE_IDA(vbt_numbers);
static DEFINE_IDA(vbt_other_numbers);

static inline struct ida *vbt_ida(const char *mod)
{
	return strcmp(mod, VBT_MOD) ? &vbt_other_numbers : &vbt_numbers;
}

static inline struct device *vbt_device(struct vbt_dev *dev)
{
	return &dev->bus.auxdev.dev;
}

static inline struct vbt_dev *vbt_from_device(struct device *device)
{
	return container_of(device, struct vbt_dev, bus.auxdev.dev);
}

static inline void *vbt_dev_private(struct vbt_dev *dev, size_t *size)
{
	*size = sizeof(dev->bus.auxdev) - sizeof(dev->bus.auxdev.dev);
	return (void *)&dev->bus.auxdev + sizeof(dev->bus.auxdev.dev);
}

static inline const struct vbt_id *vbt_bound_id(struct vbt_dev *dev, const struct vbt_id *seen)
{
	return seen;
}

static inline void vbt_bus_release(struct device *device)
{
	struct vbt_dev *dev = vbt_from_device(device);

	ida_free(dev->owner_data, dev->bus.auxdev.id);
	dev->release(dev);
}

/* The creator's module goes into the name when the device is added. */
static inline int vbt_dev_init(struct vbt_dev *dev, const char *mod, const char *name)
{
	struct ida *ida = vbt_ida(mod);
	int id, ret;

	id = ida_alloc(ida, GFP_KERNEL);
	if (id < 0)
		return id;
	dev->owner_data = ida;
	dev->bus.auxdev.id = id;
	dev->bus.auxdev.name = name;
	dev->bus.auxdev.dev.parent = dev->parent;
	dev->bus.auxdev.dev.release = vbt_bus_release;
	ret = auxiliary_device_init(&dev->bus.auxdev);
	if (ret)
		ida_free(ida, id);
	dev->mod = mod;
	return ret;
}

static inline int vbt_dev_add(struct vbt_dev *dev)
{
	return __auxiliary_device_add(&dev->bus.auxdev, dev->mod);
}

static inline void vbt_dev_del(struct vbt_dev *dev)
{
	auxiliary_device_delete(&dev->bus.auxdev);
}

static inline void vbt_dev_put(struct vbt_dev *dev)
{
	auxiliary_device_uninit(&dev->bus.auxdev);
}

static inline struct device_driver *vbt_driver(struct vbt_drv *drv)
{
	return &drv->bus.auxdrv.driver;
}

static inline struct vbt_drv *vbt_from_driver(struct device_driver *driver)
{
	return container_of(driver, struct vbt_drv, bus.auxdrv.driver);
}

static inline int vbt_bus_probe(struct auxiliary_device *auxdev,
				const struct auxiliary_device_id *id)
{
	struct vbt_drv *drv = vbt_from_driver(auxdev->dev.driver);

	return drv->probe(drv, vbt_from_device(&auxdev->dev), id);
}

static inline void vbt_bus_remove(struct auxiliary_device *auxdev)
{
	struct vbt_drv *drv = vbt_from_driver(auxdev->dev.driver);

	drv->remove(drv, vbt_from_device(&auxdev->dev));
}

static inline void vbt_bus_shutdown(struct auxiliary_device *auxdev)
{
	struct vbt_drv *drv = vbt_from_driver(auxdev->dev.driver);

	drv->shutdown(drv, vbt_from_device(&auxdev->dev));
}

static inline int vbt_drv_register(struct vbt_drv *drv)
{
	struct auxiliary_driver *auxdrv = &drv->bus.auxdrv;

	auxdrv->name = drv->name;
	auxdrv->id_table = drv->ids;
	auxdrv->probe = drv->probe ? vbt_bus_probe : NULL;
	auxdrv->remove = drv->remove ? vbt_bus_remove : NULL;
	auxdrv->shutdown = drv->shutdown ? vbt_bus_shutdown : NULL;
	auxdrv->driver.pm = drv->suspend || drv->resume ? pm_sleep_ptr(&vbt_pm_ops) : NULL;
	return auxiliary_driver_register(auxdrv);
}

static inline void vbt_drv_unregister(struct vbt_drv *drv)
{
	auxiliary_driver_unregister(&drv->bus.auxdrv);
}

#endif /* ADAPTER_AUXILIARY_H */
