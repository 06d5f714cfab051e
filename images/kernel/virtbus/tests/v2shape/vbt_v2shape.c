// SPDX-License-Identifier: GPL-2.0-only
/*
 * See vbt_v2shape.h. Each fault is marked with the requirement that it misses;
 * images/kernel/virtbus has a README with what they say.
 */

#include <linux/err.h>
#include <linux/idr.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "vbt_v2shape.h"

/* R15: a wrapper for nothing but the copy of the name. */
struct v2_object {
	struct v2_device vdev;
	char name[];
};

static DEFINE_IDA(v2_numbers);

static struct v2_device *to_v2_device(struct device *dev)
{
	return container_of(dev, struct v2_device, dev);
}

static struct v2_driver *to_v2_driver(const struct device_driver *driver)
{
	return container_of(driver, struct v2_driver, driver);
}

/* R16: whoever uses a name shares it with everybody. */
static int v2_match(struct device *dev, const struct device_driver *driver)
{
	const struct v2_driver *vdrv = to_v2_driver(driver);
	struct v2_device *vdev = to_v2_device(dev);
	const struct v2_id *id;

	if (!vdrv->id_table)
		return !strcmp(vdev->name, driver->name);
	for (id = vdrv->id_table; id->name[0]; id++) {
		/* U07: no end of the name is looked for. */
		if (!strcmp(vdev->name, id->name)) {
			/* R04 */
			vdev->matched = id;
			return 1;
		}
	}
	return 0;
}

/* U01: in these three, a device may have no driver. */
static void v2_shutdown(struct device *dev)
{
	const struct v2_driver *vdrv = to_v2_driver(dev->driver);

	if (vdrv->shutdown)
		vdrv->shutdown(to_v2_device(dev));
}

static int v2_suspend(struct device *dev, pm_message_t state)
{
	const struct v2_driver *vdrv = to_v2_driver(dev->driver);

	return vdrv->suspend ? vdrv->suspend(to_v2_device(dev), state) : 0;
}

static int v2_resume(struct device *dev)
{
	const struct v2_driver *vdrv = to_v2_driver(dev->driver);

	return vdrv->resume ? vdrv->resume(to_v2_device(dev)) : 0;
}

static int v2_probe(struct device *dev)
{
	const struct v2_driver *vdrv = to_v2_driver(dev->driver);

	return vdrv->probe ? vdrv->probe(to_v2_device(dev)) : 0;
}

static void v2_remove(struct device *dev)
{
	const struct v2_driver *vdrv = to_v2_driver(dev->driver);

	if (vdrv->remove)
		vdrv->remove(to_v2_device(dev));
}

/* R06: no uevent. R17: the old callbacks, not dev_pm_ops. */
static struct bus_type v2_bus = {
	.name = "v2shape",
	.match = v2_match,
	.probe = v2_probe,
	.remove = v2_remove,
	.shutdown = v2_shutdown,
	.suspend = v2_suspend,
	.resume = v2_resume,
};

static void v2_release(struct device *dev)
{
	kfree(container_of(to_v2_device(dev), struct v2_object, vdev));
}

/*
 * U04: what is allocated here can only be registered. U08: any name will do, and NULL is not looked
 * for.
 */
struct v2_device *v2_device_alloc(const char *name, void *data)
{
	size_t size = strlen(name) + 1;
	struct v2_object *object = kzalloc(sizeof(*object) + size, GFP_KERNEL);

	if (!object)
		return NULL;
	memcpy(object->name, name, size);
	object->vdev.name = object->name;
	object->vdev.data = data;
	object->vdev.dev.release = v2_release;
	return &object->vdev;
}
EXPORT_SYMBOL_GPL(v2_device_alloc);

int v2_device_register(struct v2_device *vdev)
{
	int ret;

	/* R13 */
	if (!vdev)
		return -EINVAL;
	device_initialize(&vdev->dev);
	vdev->dev.bus = &v2_bus;
	ret = ida_alloc(&v2_numbers, GFP_KERNEL);
	/* R07 */
	if (ret < 0)
		return ret;
	vdev->id = ret;
	/* U05 */
	dev_set_name(&vdev->dev, "%s.%d", vdev->name, vdev->id);
	ret = device_add(&vdev->dev);
	if (ret) {
		/* R08 */
		device_del(&vdev->dev);
		ida_free(&v2_numbers, vdev->id);
		vdev->id = -1;
	}
	return ret;
}
EXPORT_SYMBOL_GPL(v2_device_register);

void v2_device_unregister(struct v2_device *vdev)
{
	if (IS_ERR_OR_NULL(vdev))
		return;
	/* U03: the first reference is never dropped. */
	device_del(&vdev->dev);
	/* R09 */
	ida_free(&v2_numbers, vdev->id);
	/* R11 */
	vdev->id = -1;
}
EXPORT_SYMBOL_GPL(v2_device_unregister);

/* U02: the core warns when both the bus and the driver have these. */
static int v2_driver_probe(struct device *dev)
{
	return v2_probe(dev);
}

static void v2_driver_shutdown(struct device *dev)
{
	v2_shutdown(dev);
}

/* U09: neither probe nor table is asked for. */
int __v2_driver_register(struct v2_driver *vdrv, struct module *owner)
{
	vdrv->driver.owner = owner;
	vdrv->driver.bus = &v2_bus;
	vdrv->driver.probe = v2_driver_probe;
	vdrv->driver.shutdown = v2_driver_shutdown;
	return driver_register(&vdrv->driver);
}
EXPORT_SYMBOL_GPL(__v2_driver_register);

void v2_driver_unregister(struct v2_driver *vdrv)
{
	driver_unregister(&vdrv->driver);
}
EXPORT_SYMBOL_GPL(v2_driver_unregister);

static int __init v2_init(void)
{
	return bus_register(&v2_bus);
}
module_init(v2_init);

/* R10 */
static void __exit v2_exit(void)
{
	bus_unregister(&v2_bus);
}
module_exit(v2_exit);

MODULE_DESCRIPTION("A bus of the shape that was proposed as v2");
MODULE_LICENSE("GPL");
